package imagebuilder

import (
	"errors"
	"strings"
	"testing"

	"hatchery/internal/spec"
)

// TestPathsOfAccess looks at the paths that ssh_config and inventory.ini can
// name, and at those that neither has a way to write. What ssh makes of the
// former is seen in cmd/hatchery.
func TestPathsOfAccess(t *testing.T) {
	cluster := func(keys ...string) *spec.Cluster {
		return &spec.Cluster{Name: "homelab", User: spec.User{Name: "pi", KeyFiles: keys}, Controller: spec.Controller{Hostname: "controller"}}
	}
	for _, test := range []struct {
		summary, path         string
		inSSHConfig           string // "" where it cannot be named
		inventory, refusedFor string
	}{
		{"plain", "/a/b", `"/a/b"`, `"/a/b"`, ""},
		{"spaces and tokens", "/a/d 2%x", `"/a/d 2%%x"`, `"/a/d 2%x"`, ""},
		{"other scripts", "/a/Küche", `"/a/Küche"`, `"/a/Küche"`, ""},
		{"an apostrophe and a comment", "/a/jack's #1", `"/a/jack's #1"`, `"/a/jack's #1"`, ""},
		{"a backslash before a letter", `/a\b`, `"/a\b"`, `"/a\b"`, ""},
		{"a quote", `/a"b`, "", "", `"`},
		{"a line break", "/a\nb", "", "", "control character"},
		{"a line separator", "/a\u2028b", "", "", "control character"},
		{"not UTF-8", "/a\xffb", "", "", "UTF-8"},
		{"two backslashes", `/a\\b`, "", "", `\\`},
		{"an escaped apostrophe", `/a\'b`, "", "", `\'`},
		{"a backslash at the end", `/a\`, "", "", `\ at its end`},
		{"a variable", "/a${HOME}b", "", `"/a${HOME}b"`, "${"},
		{"a template", "/a{{b}}", `"/a{{b}}"`, "", "{{"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			check := func(got []byte, err error, want string) {
				t.Helper()
				var input *InputError
				switch {
				case want == "" && (!errors.As(err, &input) || !strings.Contains(err.Error(), test.refusedFor)):
					t.Errorf("error %v, want one that names %s", err, test.refusedFor)
				case want != "" && (err != nil || !strings.Contains(string(got), want+"\n")):
					t.Errorf("error %v; no %q in\n%s", err, want, got)
				}
			}
			prefixed := func(prefix, want string) string {
				if want == "" {
					return ""
				}
				return prefix + want
			}
			got, err := sshConfig(cluster(), test.path)
			check(got, err, prefixed("  UserKnownHostsFile ", test.inSSHConfig))
			got, err = sshConfig(cluster("/other", test.path), "/known")
			check(got, err, prefixed("  IdentityFile \"/other\"\n  IdentityFile ", test.inSSHConfig))
			got, err = inventory(cluster(), test.path)
			check(got, err, prefixed("ansible_ssh_common_args=-F ", test.inventory))
		})
	}
}
