package dpkg

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"hatchery/internal/ext4"
)

const statesFile = "/var/lib/apt/extended_states"

// A mark says of a package whether somebody asked for it.
type mark struct {
	name, arch string
	automatic  bool
}

// markAutomatic writes the marks into APT's extended_states, where those of
// other packages stay as they are.
func markAutomatic(root *ext4.FS, marks []mark, epoch time.Time) error {
	text, err := readText(root, statesFile, maxTable)
	if err != nil && !missing(err) {
		return err
	}
	changed, err := setMarks(text, marks)
	if err != nil {
		return err
	}
	if changed == text {
		return nil
	}
	if err := root.MkdirAll("/var/lib/apt", ext4.Attr{Mode: 0o755, ModTime: epoch}); err != nil {
		return err
	}
	return root.Create(statesFile, strings.NewReader(changed), ext4.Attr{Mode: 0o644, ModTime: epoch})
}

// setMarks changes the text of extended_states, in the form that APT itself
// writes it in (apt-pkg/depcache.cc, writeStateFile): a paragraph for each
// package that came by itself, and an empty line.
func setMarks(text string, marks []mark) (string, error) {
	type key struct{ name, arch string }
	want := map[key]bool{}
	for _, m := range marks {
		want[key{m.name, m.arch}] = m.automatic
	}
	var b strings.Builder
	err := readStanzas(text, func(s *stanza) error {
		k := key{s.get("Package"), s.get("Architecture")}
		automatic, mine := want[k]
		delete(want, k)
		switch {
		case k.name == "":
			return &lineError{s.line, "a paragraph without a Package field"}
		case !mine || automatic == (s.get("Auto-Installed") == "1"):
			b.WriteString(s.raw + "\n")
			return nil
		case !automatic && len(s.fields) == 3:
			return nil // nothing else is said of it
		}
		set := false
		write := func(name, value string) { b.WriteString(name + ": " + value + "\n") }
		value := map[bool]string{true: "1", false: "0"}[automatic]
		for _, f := range s.fields {
			if strings.EqualFold(f.name, "Auto-Installed") {
				f.value, set = value, true
			}
			write(f.name, f.value)
		}
		if !set {
			write("Auto-Installed", value)
		}
		b.WriteString("\n")
		return nil
	})
	var wrong *lineError
	if errors.As(err, &wrong) {
		return "", databaseErrorf(statesFile, wrong.line, "%s", wrong.detail)
	}
	var added []string
	for k, automatic := range want {
		if automatic {
			added = append(added, fmt.Sprintf("Package: %s\nArchitecture: %s\nAuto-Installed: 1\n\n", k.name, k.arch))
		}
	}
	slices.Sort(added)
	b.WriteString(strings.Join(added, ""))
	return b.String(), err
}
