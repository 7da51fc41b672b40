package dpkg

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// checkPosition makes sure that an error about foreign bytes names a line that
// is there.
func checkPosition(t *testing.T, text string, err error) {
	t.Helper()
	if err == nil {
		return
	}
	line := 0
	var wrong *DatabaseError
	var bare *lineError
	switch {
	case errors.As(err, &wrong):
		line = wrong.Line
	case errors.As(err, &bare):
		line = bare.line
	default:
		t.Fatalf("%T: %v", err, err)
	}
	if most := strings.Count(text, "\n") + 1; line < 1 || line > most {
		t.Fatalf("an error about line %d of %d: %v", line, most, err)
	}
}

func FuzzDiversions(f *testing.F) {
	f.Add("/bin/sh\n/bin/sh.distrib\ndash\n/a\n/b\n:\n")
	f.Add("./a\n//b\nx\n/a\n/c\nx\n")
	f.Add("/a\n\n:\n")
	f.Fuzz(func(t *testing.T, text string) {
		all, err := parseDiversions(text)
		checkPosition(t, text, err)
		if err != nil {
			return
		}
		for name, d := range all {
			if name[0] != '/' || (d.to == "") == (d.from == "") {
				t.Fatalf("%q: %+v", name, d)
			}
			if d.to != "" && all[d.to].from != name {
				t.Fatalf("%q goes to %q, where %+v is", name, d.to, all[d.to])
			}
		}
	})
}

func FuzzOverrides(f *testing.F) {
	f.Add("root messagebus 4754 /usr/lib/dbus-1.0/dbus-daemon-launch-helper\n#1 #2 0 a b\n")
	f.Add("root root 10000 /a\n")
	system := accounts{users: map[string]uint32{"root": 0}, groups: map[string]uint32{"root": 0, "messagebus": 104}}
	f.Fuzz(func(t *testing.T, text string) {
		all, err := parseOverrides(text, system)
		checkPosition(t, text, err)
		for name, o := range all {
			if name[0] != '/' || o.mode.Type() != 0 {
				t.Fatalf("%q: %+v", name, o)
			}
		}
	})
}

func FuzzTriggers(f *testing.F) {
	f.Add("/usr/lib/libc libc-bin\n/usr/share/man man-db/noawait\n", "update-initramfs initramfs-tools -\n# x\n/a b:armel\n", "libc-bin\nx:armel/noawait\n", "# c\n interest-noawait ldconfig\nactivate /a\n")
	f.Add("x y\n", "a\n", "/\n", "interest\n")
	f.Fuzz(func(t *testing.T, file, unincorp, explicit, directives string) {
		interests, err := parseInterests(file)
		checkPosition(t, file, err)
		for _, i := range interests {
			if i.path[0] != '/' || !validSpec(i.spec) {
				t.Fatalf("%+v", i)
			}
		}
		deferreds, err := parseDeferred(unincorp)
		checkPosition(t, unincorp, err)
		for _, d := range deferreds {
			if !validTrigger(d.trigger) || len(d.awaiters) == 0 {
				t.Fatalf("%+v", d)
			}
		}
		_, err = parseExplicit("/x", explicit)
		checkPosition(t, explicit, err)
		list, err := parseDirectives(directives)
		checkPosition(t, directives, err)
		for _, d := range list {
			// A word becomes a file's name.
			if d.trigger[0] != '/' && strings.ContainsAny(d.trigger, "/\n ") || d.trigger == ".." {
				t.Fatalf("%+v", d)
			}
		}
	})
}

func FuzzExtendedStates(f *testing.F) {
	f.Add("Package: a\nArchitecture: armel\nAuto-Installed: 1\n\nPackage: b\nArchitecture: armel\nAuto-Installed: 1\nX: y\n\n")
	f.Add("Package: a\n b\n\n\n")
	marks := []mark{{"a", "armel", false}, {"b", "armel", false}, {"c", "armel", true}}
	f.Fuzz(func(t *testing.T, text string) {
		once, err := setMarks(text, marks)
		checkPosition(t, text, err)
		if err != nil {
			return
		}
		twice, err := setMarks(once, marks)
		if err != nil || twice != once {
			t.Fatalf("again:\n%s%v\nonce:\n%s", twice, err, once)
		}
	})
}

func FuzzList(f *testing.F) {
	f.Add("/.\n/usr\n/usr/bin\n")
	f.Add("usr/\n//a\n/\n")
	f.Fuzz(func(t *testing.T, text string) {
		files, err := parseList("/l", text)
		checkPosition(t, text, err)
		if err == nil && len(files) != strings.Count(text, "\n") {
			t.Fatalf("%q of %q", files, text)
		}
		for _, name := range files {
			if name[0] != '/' {
				t.Fatalf("%q", name)
			}
		}
	})
}

func FuzzStatus(f *testing.F) {
	f.Add("Package: a\nStatus: install ok triggers-pending\nArchitecture: armel\nMulti-Arch: same\nVersion: 0:1\nConffiles:\n /etc/a abc obsolete\n /etc/b newconffile\nDescription: x\n y\nTriggers-Pending: b a\n\n")
	f.Add("Package: b\nStatus: hold ok triggers-awaited\nArchitecture: all\nVersion: 1\nConfig-Version: 1\nTriggers-Awaited: a:armel\n")
	f.Fuzz(func(t *testing.T, text string) {
		db := &database{byName: map[string][]*record{}, architecture: "armel"}
		err := readStanzas(text, func(s *stanza) error {
			r, err := newRecord(s)
			if r != nil {
				db.add(r)
			}
			return err
		})
		if err == nil {
			err = db.linkAwaited()
		}
		checkPosition(t, text, err)
		if err != nil {
			return
		}
		for _, r := range db.records {
			// What is written anew is what was read.
			r.raw = ""
			written := db.stanza(r)
			err := readStanzas(written, func(s *stanza) error {
				again, err := newRecord(s)
				if err != nil || again == nil || again.name != r.name || again.version != r.version || again.state != r.state || !slices.Equal(again.conffiles, r.conffiles) {
					t.Fatalf("%+v\nis written\n%s\nand read as\n%+v: %v", r, written, again, err)
				}
				return nil
			})
			if err != nil {
				t.Fatalf("%s: %v", written, err)
			}
		}
	})
}

func FuzzRelations(f *testing.F) {
	f.Add("libc6 (>= 2.36), a:any|b (<1:2-3) , c(=0:1)")
	f.Add("a ()")
	f.Fuzz(func(t *testing.T, value string) {
		groups, err := parseRelations(fieldDepends, value)
		if err != nil {
			return
		}
		text := formatRelations(groups)
		again, err := parseRelations(fieldDepends, text)
		if err != nil || formatRelations(again) != text {
			t.Fatalf("%q is written %q: %v", value, text, err)
		}
	})
}

func FuzzFilters(f *testing.F) {
	f.Add("path-exclude=/usr/share/doc/*\npath-include '/usr/share/[!a-c]?x\\*'\n", "usr/share/doc/x")
	f.Add("path-exclude=[\npath-exclude=[]\npath-exclude=[a-\npath-exclude=\\\n", "a")
	f.Add("path-exclude=*a*a*a*a*a*a*b\n", strings.Repeat("a", 200))
	f.Fuzz(func(t *testing.T, text, name string) {
		if len(text)+len(name) > 1<<12 {
			return
		}
		for _, filter := range parseFilters(text) {
			matches := match(filter.pattern, name)
			if !strings.ContainsAny(filter.pattern, `*?[\\`) && matches != (filter.pattern == name) {
				t.Fatalf("%q and %q", filter.pattern, name)
			}
		}
	})
}
