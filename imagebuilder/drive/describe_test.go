package drive_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hatchery/imagebuilder/drive"
)

// describe shows drives as lines: what they are, then what speaks against each.
func describe(all []drive.Drive) string {
	var out strings.Builder
	for _, d := range all {
		fmt.Fprintf(&out, "%s %s %q serial=%q bus=%s %d", d.Path, d.Kind, d.Model, d.Serial, d.Bus, d.Size)
		for _, flag := range []struct {
			on   bool
			name string
		}{{d.Removable, "removable"}, {d.ReadOnly, "read-only"}, {d.System, "SYSTEM"}, {d.Candidate(), "CANDIDATE"}} {
			if flag.on {
				out.WriteString(" " + flag.name)
			}
		}
		out.WriteString("\n")
		for _, m := range d.Mounts {
			casual := ""
			if m.Casual {
				casual = " casually"
			}
			fmt.Fprintf(&out, "  %s at %q%s\n", m.Device, m.Place, casual)
		}
		for _, o := range d.Objections() {
			mark := "  -"
			if o.Final {
				mark = "  !"
			}
			fmt.Fprintf(&out, "%s %s\n", mark, o.Text)
		}
	}
	return out.String()
}

// golden compares with a file; UPDATE=1 writes it.
func golden(t *testing.T, path, got string) {
	t.Helper()
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}
