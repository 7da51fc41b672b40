package dpkg

import (
	"path"
	"slices"
	"strings"
)

const (
	interestsFile = triggersDir + "/File"
	deferredFile  = triggersDir + "/Unincorp"
	// maxDirective is what dpkg takes for a line of a package's control file
	// triggers.
	maxDirective = 256
	// maxExplicit bounds the file of a word, and maxDeferred Unincorp, every
	// line of which may mean every line of the former.
	maxExplicit, maxDeferred = 64 << 10, 256 << 10
)

// An interest is a package's in a path: whenever a package puts something
// there, its postinst is to be run (deb-triggers(5)).
type interest struct {
	path    string
	spec    string // the package as the file has it
	noAwait bool   // who set it off need not wait
}

// triggers are the interests in paths; those in words have a file each.
type triggers struct {
	list   []*interest // in the order of the file
	byPath map[string][]*interest
	byWord map[string][]interest // the files that were read
	edited bool
}

func (t *triggers) add(i *interest) {
	t.list = append(t.list, i)
	t.byPath[i.path] = append(t.byPath[i.path], i)
}

func (t *triggers) remove(i *interest) {
	is := func(other *interest) bool { return other == i }
	t.list = slices.DeleteFunc(t.list, is)
	t.byPath[i.path] = slices.DeleteFunc(t.byPath[i.path], is)
}

// readTriggers reads the interests, and then what is in Unincorp: triggers that
// were set off while no dpkg was there to note it.
func (db *database) readTriggers() error {
	db.triggers.byPath, db.triggers.byWord = map[string][]*interest{}, map[string][]interest{}
	text, err := db.readText(interestsFile, maxTable)
	if err != nil && !missing(err) {
		return err
	}
	list, err := parseInterests(text)
	if err != nil {
		return err
	}
	for _, i := range list {
		if slices.ContainsFunc(db.triggers.byPath[i.path], func(other *interest) bool { return other.spec == i.spec }) {
			return databaseErrorf(interestsFile, 0, "the interest of %s in %s is there twice", i.spec, i.path)
		}
		db.triggers.add(i)
	}
	text, err = db.readText(deferredFile, maxDeferred)
	if missing(err) {
		return db.firstTriggers()
	}
	if err != nil {
		return err
	}
	return db.incorporate(text)
}

// parseInterests reads the file File: a path and a package in each line.
func parseInterests(text string) ([]*interest, error) {
	var list []*interest
	err := lines(interestsFile, text, func(number int, line string) error {
		name, who, ok := strings.Cut(line, " ")
		spec, noAwait := parseInterested(who)
		if !ok || name == "" || name[0] != '/' || len(line) >= maxLine || !validSpec(spec) {
			return databaseErrorf(interestsFile, number, "%.80q is not a path and a package", line)
		}
		list = append(list, &interest{path: nodeName(name), spec: spec, noAwait: noAwait})
		return nil
	})
	return list, err
}

// parseInterested reads a package with its option: "libc-bin/noawait".
func parseInterested(word string) (spec string, noAwait bool) {
	spec, option, _ := strings.Cut(word, "/")
	return spec, option == "noawait"
}

func validSpec(spec string) bool {
	name, arch, qualified := strings.Cut(spec, ":")
	return validName(name) && (!qualified || validArchitecture(arch))
}

// deferred is one line of Unincorp.
type deferred struct {
	trigger  string
	awaiters []string // packages, "-" for nobody
}

// parseDeferred reads Unincorp (lib/dpkg/trigdeferred.c, trigdef_parse).
func parseDeferred(text string) ([]deferred, error) {
	var list []deferred
	err := lines(deferredFile, text, func(number int, line string) error {
		line, _, _ = strings.Cut(strings.TrimLeft(line, " \t"), "#")
		words := strings.Fields(line)
		if len(words) == 0 {
			return nil
		}
		bad := func(word string) error {
			return databaseErrorf(deferredFile, number, "%.80q is no trigger and the packages that wait for it", word)
		}
		if len(words) == 1 || !validTrigger(words[0]) {
			return bad(line)
		}
		for _, word := range words[1:] {
			if word != "-" && !validSpec(word) {
				return bad(word)
			}
		}
		list = append(list, deferred{words[0], words[1:]})
		return nil
	})
	return list, err
}

// incorporate notes what Unincorp has.
func (db *database) incorporate(text string) error {
	if text == "" {
		return nil
	}
	list, err := parseDeferred(text)
	if err != nil {
		return err
	}
	for _, d := range list {
		for _, word := range d.awaiters {
			if err := db.activate(d.trigger, db.find(word)); err != nil {
				return err
			}
		}
	}
	return db.write(deferredFile, "", 0o644)
}

// firstTriggers does what dpkg does where it finds that no dpkg that knows of
// triggers has been at work: it believes that all of them were set off
// (src/main/trigproc.c, trig_transitional_activate).
func (db *database) firstTriggers() error {
	for _, r := range db.records {
		if r.state <= halfInstalled {
			continue
		}
		text, err := db.readText(infoFile(r, "triggers"), maxTable)
		if missing(err) {
			continue
		}
		if err != nil {
			return err
		}
		list, err := parseDirectives(text)
		if err != nil {
			return databaseErrorf(infoFile(r, "triggers"), 0, "%v", err)
		}
		r.pending = nil
		for _, d := range list {
			if !d.interest {
				continue
			}
			if err := db.addInterest(r, d); err != nil {
				return err
			}
			if r.state >= triggersAwaited {
				r.notePending(d.trigger)
			}
		}
		if r.state >= triggersAwaited {
			r.raw = ""
			switch {
			case len(r.awaited) > 0:
				r.state = triggersAwaited
			case len(r.pending) > 0:
				r.state = triggersPending
			default:
				r.state = installed
			}
		}
	}
	if err := db.makeDir(triggersDir); err != nil {
		return err
	}
	return db.write(deferredFile, "", 0o644)
}

// A directive is a line of a package's control file triggers.
type directive struct {
	interest bool // else it sets the trigger off
	trigger  string
	noAwait  bool
}

// parseDirectives reads a control file triggers (lib/dpkg/triglib.c,
// trig_parse_ci). The error is a *lineError.
func parseDirectives(text string) ([]directive, error) {
	var list []directive
	number := 0
	for line := range strings.Lines(text) {
		number++
		if !strings.HasSuffix(line, "\n") || len(line) >= maxDirective {
			return nil, &lineError{number, "a line that is too long, or has no end"}
		}
		words := strings.Fields(line)
		if len(words) == 0 || words[0][0] == '#' {
			continue
		}
		var d directive
		verb, noAwait := strings.CutSuffix(words[0], "-noawait")
		verb = strings.TrimSuffix(verb, "-await")
		d.interest, d.noAwait = verb == "interest", noAwait
		if verb != "interest" && verb != "activate" || len(words) != 2 || !validTrigger(words[1]) {
			return nil, &lineError{number, "it is neither the interest in a trigger nor its activation"}
		}
		d.trigger = words[1]
		list = append(list, d)
	}
	return list, nil
}

// validTrigger says what can be a trigger: a path, or a word like a package's
// name (lib/dpkg/triglib.c, trig_classify_byname).
func validTrigger(name string) bool {
	if strings.HasPrefix(name, "/") {
		return len(name) < maxLine && path.Clean(name) == name && name != "/"
	}
	return validName(name) && !strings.Contains(name, "_")
}

// addInterest notes the interest of a package.
func (db *database) addInterest(r *record, d directive) error {
	if d.trigger[0] != '/' {
		return db.changeExplicit(r, d.trigger, &interest{spec: r.infoName(), noAwait: d.noAwait})
	}
	if i := db.interestOf(r, d.trigger); i != nil {
		i.noAwait = d.noAwait // dpkg writes that down only when there is more to write
		return nil
	}
	db.triggers.add(&interest{path: d.trigger, spec: r.infoName(), noAwait: d.noAwait})
	db.triggers.edited = true
	return nil
}

// removeInterest forgets the interest of a package.
func (db *database) removeInterest(r *record, d directive) error {
	if d.trigger[0] != '/' {
		return db.changeExplicit(r, d.trigger, nil)
	}
	if i := db.interestOf(r, d.trigger); i != nil {
		db.triggers.remove(i)
		db.triggers.edited = true
	}
	return nil
}

func (db *database) interestOf(r *record, name string) *interest {
	for _, i := range db.triggers.byPath[name] {
		if db.isSpec(i.spec, r) {
			return i
		}
	}
	return nil
}

// isSpec says whether a package is meant by a word in a trigger file.
func (db *database) isSpec(spec string, r *record) bool {
	name, arch, qualified := strings.Cut(spec, ":")
	if qualified {
		return name == r.name && arch == r.arch
	}
	return name == r.name && db.find(name) == r
}

// readExplicit reads who is interested in a word.
func (db *database) readExplicit(word string) ([]interest, error) {
	if list, ok := db.triggers.byWord[word]; ok {
		return list, nil
	}
	name := path.Join(triggersDir, word)
	text, err := db.readText(name, maxExplicit)
	if err != nil && !missing(err) {
		return nil, err
	}
	list, err := parseExplicit(name, text)
	if err == nil {
		db.triggers.byWord[word] = list
	}
	return list, err
}

func parseExplicit(file, text string) ([]interest, error) {
	var list []interest
	err := lines(file, text, func(number int, line string) error {
		spec, noAwait := parseInterested(line)
		if !validSpec(spec) || len(line) >= maxLine {
			return databaseErrorf(file, number, "%.80q is no package", line)
		}
		list = append(list, interest{spec: spec, noAwait: noAwait})
		return nil
	})
	return list, err
}

// changeExplicit takes a package's interest in a word away, and notes another
// one.
func (db *database) changeExplicit(r *record, word string, add *interest) error {
	list, err := db.readExplicit(word)
	if err != nil {
		return err
	}
	list = slices.DeleteFunc(slices.Clone(list), func(i interest) bool { return db.isSpec(i.spec, r) })
	delete(db.triggers.byWord, word)
	if add != nil {
		list = append(list, *add)
	}
	name := path.Join(triggersDir, word)
	if len(list) == 0 {
		if err := db.root.Remove(name); err != nil && !missing(err) {
			return err
		}
		return nil
	}
	var b strings.Builder
	for _, i := range list {
		b.WriteString(i.spec + i.option() + "\n")
	}
	if err := db.makeDir(triggersDir); err != nil {
		return err
	}
	return db.write(name, b.String(), 0o644)
}

func (i *interest) option() string {
	if i.noAwait {
		return "/noawait"
	}
	return ""
}

// saveTriggers writes the interests in paths, where they have changed.
func (db *database) saveTriggers() error {
	if !db.triggers.edited {
		return nil
	}
	if len(db.triggers.list) == 0 {
		if err := db.root.Remove(interestsFile); err != nil && !missing(err) {
			return err
		}
		return nil
	}
	var b strings.Builder
	for _, i := range db.triggers.list {
		spec := i.spec
		if r := db.find(spec); r != nil {
			spec = r.infoName()
		}
		b.WriteString(i.path + " " + spec + i.option() + "\n")
	}
	return db.write(interestsFile, b.String(), 0o644)
}

// activate sets off a trigger by its name; awaiter waits for it, nil for
// nobody.
func (db *database) activate(trigger string, awaiter *record) error {
	if trigger[0] == '/' {
		for name := trigger; name != "/" && name != ""; name = path.Dir(name) {
			db.activatePath(name, awaiter)
		}
		return nil
	}
	list, err := db.readExplicit(trigger)
	if err != nil {
		return err
	}
	for _, i := range list {
		db.recordActivation(i, trigger, awaiter)
	}
	return nil
}

// activatePath sets off the triggers of one path, and of none above it.
func (db *database) activatePath(name string, awaiter *record) {
	list := db.triggers.byPath[name]
	for _, i := range slices.Backward(list) {
		db.recordActivation(*i, name, awaiter)
	}
}

// recordActivation is lib/dpkg/triglib.c, trig_record_activation.
func (db *database) recordActivation(i interest, trigger string, awaiter *record) {
	r := db.find(i.spec)
	if r == nil || r.state < triggersAwaited {
		return
	}
	if r.notePending(trigger) {
		r.state = triggersPending
		if len(r.awaited) > 0 {
			r.state = triggersAwaited
		}
		db.noted(r)
	}
	if awaiter == nil || i.noAwait || slices.Contains(awaiter.awaited, r) {
		return
	}
	awaiter.awaited = append(awaiter.awaited, r)
	if awaiter.state > triggersAwaited {
		awaiter.state = triggersAwaited
	}
	db.noted(awaiter)
}

// notePending adds a trigger to those that a package has to run.
func (r *record) notePending(trigger string) bool {
	if slices.Contains(r.pending, trigger) {
		return false
	}
	r.pending = slices.Insert(r.pending, 0, trigger)
	return true
}

// noted brings a package's triggers in line with its state, whenever that has
// changed (lib/dpkg/dbmodify.c, modstatdb_note).
func (db *database) noted(r *record) {
	r.raw = ""
	if r.state != triggersPending && r.state != triggersAwaited {
		r.pending = nil
	}
	if r.state <= configFiles {
		r.awaited = nil
	}
	if len(r.pending) == 0 {
		db.clearAwaiters(r)
	}
}

// clearAwaiters lets nobody wait for a package any more.
func (db *database) clearAwaiters(r *record) {
	for _, other := range db.records {
		if at := slices.Index(other.awaited, r); at >= 0 {
			other.awaited = slices.Delete(other.awaited, at, at+1)
			other.raw = ""
			if len(other.awaited) == 0 && other.state == triggersAwaited {
				other.waitNoMore()
				db.noted(other)
			}
		}
	}
}

// waitNoMore is for a package that waited and has nothing to wait for.
func (r *record) waitNoMore() {
	r.state = installed
	if len(r.pending) > 0 {
		r.state = triggersPending
	}
}
