package initramfs

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// A tree is what depmod says of the modules of one kernel: the lists in
// /lib/modules/<release> (modules.dep(5), depmod(8)).
type tree struct {
	dir    string              // in the image, lib/modules/<release>
	files  map[string]string   // by module name: its file in dir
	needs  map[string][]string // by file: those that it needs, the last one first to be loaded
	before map[string][]string // by module name: softdep … pre:
	after  map[string][]string // softdep … post:
	alias  map[string][]string // by a name without wildcards: modules that answer to it
	inside map[string]bool     // modules that are built in
}

// findTree reads the lists of the kernel's modules.
func findTree(root fs.FS, release string) (*tree, error) {
	dir := ""
	have := map[string]bool{}
	// A link of a merged /usr leads from one to the other.
	for _, above := range []string{"lib/modules", "usr/lib/modules"} {
		entries, err := fs.ReadDir(root, above)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read /%s of the image: %w", above, err)
		}
		for _, e := range entries {
			if validRelease(e.Name()) && len(have) < 16 {
				have[e.Name()] = true
			}
			if e.Name() == release && dir == "" {
				dir = path.Join(above, release)
			}
		}
	}
	t := &tree{dir: dir, files: map[string]string{}, needs: map[string][]string{}, before: map[string][]string{},
		after: map[string][]string{}, alias: map[string][]string{}, inside: map[string]bool{}}
	if dir != "" {
		err := t.read(root)
		if !errors.Is(err, fs.ErrNotExist) {
			return t, err
		}
		delete(have, release) // a folder without modules.dep is none
	}
	e := &NoModulesError{Kernel: release}
	for name := range have {
		e.Have = append(e.Have, name)
	}
	slices.Sort(e.Have)
	return nil, e
}

// Releases lists the kernels that an image has modules for.
func Releases(root fs.FS) ([]string, error) {
	var all []string
	for _, above := range []string{"lib/modules", "usr/lib/modules"} {
		entries, err := fs.ReadDir(root, above)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("cannot read /%s of the image: %w", above, err)
		}
		for _, e := range entries {
			list := path.Join(above, e.Name(), "modules.dep")
			if _, err := fs.Stat(root, list); err == nil && validRelease(e.Name()) && !slices.Contains(all, e.Name()) {
				all = append(all, e.Name())
			}
		}
	}
	slices.Sort(all)
	return all, nil
}

// read reads the lists. Only modules.dep must be there.
func (t *tree) read(root fs.FS) error {
	for _, list := range []struct {
		name string
		line func(string)
	}{
		{"modules.dep", t.dependencies},
		{"modules.builtin", func(line string) { t.inside[nameOf(line)] = true }},
		{"modules.softdep", t.soft},
		{"modules.alias", t.aliases},
	} {
		err := t.lines(root, list.name, list.line)
		if err != nil && (list.name == "modules.dep" || !errors.Is(err, fs.ErrNotExist)) {
			return fmt.Errorf("cannot read /%s of the image: %w", path.Join(t.dir, list.name), err)
		}
	}
	return nil
}

// lines gives the lines of a list that are no comments.
func (t *tree) lines(root fs.FS, name string, each func(string)) error {
	f, err := root.Open(path.Join(t.dir, name))
	if err != nil {
		return err
	}
	defer f.Close()
	limited := &io.LimitedReader{R: f, N: maxList + 1}
	in := bufio.NewScanner(limited)
	in.Buffer(nil, 64<<10)
	for in.Scan() {
		line := bytes.TrimSpace(in.Bytes())
		if len(line) > 0 && line[0] != '#' {
			each(string(line))
		}
	}
	if in.Err() == nil && limited.N <= 0 {
		return fmt.Errorf("it has more than %d MiB", maxList>>20)
	}
	return in.Err()
}

// normal is a module's name as the kernel has it.
func normal(name string) string { return strings.ReplaceAll(name, "-", "_") }

// nameOf is the name of the module in a file: kernel/drivers/md/dm-mod.ko.xz
// has dm_mod.
func nameOf(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return normal(name)
}

// inDir gives a file of a list as it is named in the tree's folder, "" for what
// lies elsewhere. Old depmods wrote whole paths.
func (t *tree) inDir(file string) string {
	for _, above := range []string{"/" + t.dir, "/lib/modules/" + path.Base(t.dir)} {
		if rest, ok := strings.CutPrefix(file, above+"/"); ok {
			file = rest
		}
	}
	if !fs.ValidPath(file) || file == "." || strings.ContainsFunc(file, func(r rune) bool { return r < 0x21 || r == 0x7f }) {
		return ""
	}
	return file
}

// dependencies takes a line of modules.dep: a module, a colon, and what it
// needs.
func (t *tree) dependencies(line string) {
	file, rest, ok := strings.Cut(line, ":")
	file = t.inDir(file)
	if !ok || file == "" {
		return
	}
	t.files[nameOf(file)] = file
	if rest = strings.TrimSpace(rest); rest == "" {
		return
	}
	var needs []string
	for need := range strings.FieldsSeq(rest) {
		// What lies elsewhere stays, to be missed.
		if in := t.inDir(need); in != "" {
			need = in
		}
		needs = append(needs, need)
	}
	t.needs[file] = needs
}

// soft takes a line of modules.softdep: modules, or aliases, that are to be
// loaded before or after another, where they are there.
func (t *tree) soft(line string) {
	words := strings.Fields(line)
	if len(words) < 4 || words[0] != "softdep" {
		return
	}
	name, into := normal(words[1]), map[string][]string(nil)
	for _, word := range words[2:] {
		switch {
		case word == "pre:":
			into = t.before
		case word == "post:":
			into = t.after
		case into != nil:
			into[name] = append(into[name], word)
		}
	}
}

// aliases takes a line of modules.alias. Only names without wildcards are
// asked for here.
func (t *tree) aliases(line string) {
	words := strings.Fields(line)
	if len(words) == 3 && words[0] == "alias" && !strings.ContainsAny(words[1], "*?[") {
		name := normal(words[1])
		t.alias[name] = append(t.alias[name], normal(words[2]))
	}
}

// choose fills in the plan's modules, in modprobe's order: what a module needs,
// its softdeps, itself (libkmod's kmod_module_get_probe_list).
func (p *Plan) choose(t *tree) error {
	w := &walk{plan: p, tree: t, state: map[string]bool{}}
	for _, optional := range []bool{false, true} {
		names := p.options.Modules
		if optional {
			names = p.options.Optional
		}
		for _, name := range names {
			if err := w.load(normal(name), "", !optional); err != nil {
				return err
			}
		}
	}
	return nil
}

// A walk goes from the modules that are asked for to all that they need.
type walk struct {
	plan  *Plan
	tree  *tree
	state map[string]bool // modules that were met
}

// load adds a module and what it needs. One that is optional, and cannot be
// had or not with all that it needs, is left out whole.
func (w *walk) load(name, wanted string, needed bool) error {
	if w.tree.files[name] == "" && w.tree.inside[name] {
		if wanted == "" && !slices.Contains(w.plan.Builtin, name) {
			w.plan.Builtin = append(w.plan.Builtin, name)
		}
		return nil
	}
	if !needed {
		if missing := w.lacks(name); missing != "" {
			if wanted == "" {
				w.plan.Absent = append(w.plan.Absent, name)
			}
			return nil
		}
	}
	return w.add(name, wanted, needed)
}

// lacks gives what is missing to load a module, "" for nothing.
func (w *walk) lacks(name string) string {
	file := w.tree.files[name]
	if file == "" {
		return name
	}
	for _, f := range append([]string{file}, w.tree.needs[file]...) {
		if w.tree.files[nameOf(f)] != f && !w.tree.inside[nameOf(f)] {
			return nameOf(f)
		}
		if _, err := fs.Stat(w.plan.options.Root, path.Join(w.tree.dir, f)); err != nil && fs.ValidPath(f) {
			return nameOf(f)
		}
	}
	return ""
}

func (w *walk) add(name, wanted string, needed bool) error {
	file := w.tree.files[name]
	if file == "" {
		return &MissingError{Module: name, For: wanted, Kernel: w.plan.Kernel}
	}
	if w.state[name] {
		if needed {
			w.mark(name)
		}
		return nil
	}
	w.state[name] = true
	if len(w.state) > maxCount {
		return fmt.Errorf("what is asked for of kernel %s needs more than %d modules: its modules.dep cannot be right", w.plan.Kernel, maxCount)
	}
	for _, need := range slices.Backward(w.tree.needs[file]) {
		if err := w.need(need, name, needed); err != nil {
			return err
		}
	}
	for _, soft := range w.tree.before[name] {
		if err := w.named(soft, name); err != nil {
			return err
		}
	}
	plain := file
	if at := strings.LastIndex(plain, ".ko"); at >= 0 {
		plain = plain[:at+len(".ko")]
	}
	w.plan.Modules = append(w.plan.Modules, Module{
		Name: name, Path: "/lib/modules/" + w.plan.Kernel + "/" + plain, Needed: needed, source: path.Join(w.tree.dir, file),
	})
	for _, soft := range w.tree.after[name] {
		if err := w.named(soft, name); err != nil {
			return err
		}
	}
	return nil
}

// need adds a module that another one's line of modules.dep names.
func (w *walk) need(file, wanted string, needed bool) error {
	name := nameOf(file)
	switch {
	case w.tree.files[name] == file:
		return w.add(name, wanted, needed)
	case w.tree.inside[name]:
		return nil
	}
	return &MissingError{Module: name, For: wanted, Kernel: w.plan.Kernel, File: file}
}

// named adds what a softdep names: a module, or all that answer to an alias.
func (w *walk) named(soft, wanted string) error {
	name := normal(soft)
	names := []string{name}
	if w.tree.files[name] == "" {
		names = w.tree.alias[name]
	}
	for _, name := range names {
		if err := w.load(name, wanted, false); err != nil {
			return err
		}
	}
	return nil
}

// mark says of a module that was optional so far, and of what it needs, that
// it is needed.
func (w *walk) mark(name string) {
	names := map[string]bool{name: true}
	for _, file := range w.tree.needs[w.tree.files[name]] {
		names[nameOf(file)] = true
	}
	for i := range w.plan.Modules {
		if names[w.plan.Modules[i].Name] {
			w.plan.Modules[i].Needed = true
		}
	}
}
