package difference_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"

	"hatchery/imagebuilder/difference"
)

// TestPrivate looks for secrets in everything that is told: their texts, their
// digests and their sizes, which nothing else has.
func TestPrivate(t *testing.T) {
	secrets := map[string]bool{}
	// secret is a text of an odd length.
	secret := func(name string) string {
		s := "SECRET-" + name + strings.Repeat("-SECRET", 1000+len(secrets)*37)
		secrets[s] = true
		return s + "\n"
	}
	lines := func(kind string, more ...string) string {
		s := func(name string) string { return secret(kind + name) }
		list := []string{
			fmt.Sprintf("-600 0:0 /etc/key %q", s("key")),
			fmt.Sprintf("-640 0:42 /etc/shadow %q", s("shadow")),
			fmt.Sprintf("-600 0:0 /etc/same-size %q", s("same")),
			"d700 0:0 /root",
			fmt.Sprintf("-644 0:0 /root/%s/readable %q", kind, s("in root")),
			fmt.Sprintf("l777 0:0 /root/%s/link %q", kind, strings.TrimSpace(s("target"))),
			fmt.Sprintf("-644 0:0 /root/attr x %q", "x:user.secret="+strings.TrimSpace(s("attr"))),
			fmt.Sprintf("-644 0:0 /named %q", s("named")),
			fmt.Sprintf("-644 0:0 /named-folder/in/it %q", s("in a named folder")),
			fmt.Sprintf("-600 0:0 /only-%s %q", kind, s("only")),
			fmt.Sprintf("-755 0:0 /boot/cmdline.txt %q", "a "+s("words")),
			fmt.Sprintf("-755 0:0 /boot/config.txt %q", "a="+s("setting")),
			fmt.Sprintf("-640 0:0 /var/lib/dpkg/status %q", fmt.Sprintf("Package: x\nStatus: install ok installed\nVersion: %s", s("package"))),
		}
		return strings.Join(append(list, more...), "\n")
	}
	moved, opened := secret("moved"), secret("opened")
	was := fake(t, lines("was",
		fmt.Sprintf("-600 0:0 /opt/a/moved %q", moved), fmt.Sprintf("-644 0:0 /opt/open-then %q", secret("open then")),
		fmt.Sprintf("-600 0:0 /opt/closed-then %q", secret("closed then")),
		fmt.Sprintf("d700 0:0 /opt/closed-home inode=11\n-644 0:0 /opt/closed-home/file %q", opened),
		fmt.Sprintf("d755 0:0 /opt/home inode=9\n-644 0:0 /opt/home/file %q", secret("home"))))
	is := fake(t, lines("is",
		fmt.Sprintf("-600 0:0 /opt/b/moved %q", moved), fmt.Sprintf("-600 0:0 /opt/open-then %q", secret("closed now")),
		fmt.Sprintf("-644 0:0 /opt/closed-then %q", secret("open now")),
		fmt.Sprintf("d755 0:0 /opt/open-home inode=11\n-644 0:0 /opt/open-home/file %q", opened),
		fmt.Sprintf("d700 0:0 /opt/house inode=9\n-644 0:0 /opt/house/file %q", was.content["/opt/home/file"])))
	is.content["/etc/same-size"] = strings.Replace(was.content["/etc/same-size"], "SECRET", "secret", 1)
	secrets[strings.TrimSpace(is.content["/etc/same-size"])] = true
	for i := range is.nodes {
		if is.nodes[i].Path == "/etc/same-size" {
			is.nodes[i].Size = int64(len(is.content["/etc/same-size"]))
		}
	}
	was.readErr["/etc/shadow"] = fmt.Errorf("damaged") // tells nothing either

	d := compare(t, was, is, difference.Options{
		BootPath: "/boot",
		Private: func(p string) bool {
			return p == "/named" || p == "/named-folder" || strings.HasPrefix(p, "/boot/")
		},
	})
	told := text(t, d, difference.TextOptions{All: true}) + text(t, d, difference.TextOptions{All: true, Color: true}) + jsonText(t, d)
	if strings.Contains(strings.ToUpper(told), "SECRET-") {
		t.Errorf("a secret is told:\n%s", told)
	}
	for s := range secrets {
		for _, content := range []string{s, s + "\n", "a " + s + "\n", "a=" + s + "\n"} {
			sum := sha256.Sum256([]byte(content))
			if strings.Contains(told, hex.EncodeToString(sum[:])) {
				t.Errorf("the digest of %.20s… is told", s)
			}
			if strings.Contains(told, hex.EncodeToString([]byte(content))[:40]) {
				t.Errorf("%.20s… is told in hexadecimal digits", s)
			}
			for _, size := range []string{fmt.Sprint(len(content)), fmt.Sprintf("%.1f KiB", float64(len(content))/1024)} {
				if strings.Contains(told, size) {
					t.Errorf("the size of %.20s… is told: %s", s, size)
				}
			}
		}
	}
	if n := d.Totals.Added.Bytes + d.Totals.Removed.Bytes + d.Totals.Changed.Bytes + d.Totals.Renamed.Bytes; n != 0 {
		t.Errorf("%d bytes are counted", n)
	}
	// And yet it is told that they differ.
	var got []string
	for _, f := range d.Files {
		if f.Private {
			got = append(got, f.Change+" "+string(f.Path))
		}
	}
	for _, want := range []string{
		"changed /boot/cmdline.txt", "changed /etc/key", "changed /etc/same-size", "changed /named", "changed /named-folder/in/it", "added /only-is",
		"removed /only-was", "changed /opt/closed-then", "changed /opt/open-then", "renamed /opt/b/moved", "renamed /opt/house/file", "renamed /opt/open-home/file", "changed /root/attr",
		"added /root/is/link", "added /root/is/readable", "changed /var/lib/dpkg/status",
	} {
		if !slices.Contains(got, want) {
			t.Errorf("it is not told: %s (%q)", want, got)
		}
	}
	if d.Cmdline != nil || d.Config != nil || d.Packages != nil {
		t.Errorf("private files are looked into: %v %v %v", d.Cmdline, d.Config, d.Packages)
	}
}
