package spec_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hatchery/internal/spec"
)

func TestKeep(t *testing.T) {
	dir := home(t)
	for _, c := range []struct {
		summary, content string
		want             []string
	}{
		{"left out", "", []string{spec.KeepVolumes}},
		{"nothing", "keep: []\n", []string{}},
		{"paths", "keep: [/srv/data, volumes, /home/pi/notes.txt]\n", []string{"/srv/data", spec.KeepVolumes, "/home/pi/notes.txt"}},
		{"beside what is the system's", "keep: [/etc/motd, /var/tmpl, /var/www]\n", []string{"/etc/motd", "/var/tmpl", "/var/www"}},
		{"names that begin alike", "keep: [/srv/a, /srv/a.b, /srv/ab/c]\n", []string{"/srv/a", "/srv/a.b", "/srv/ab/c"}},
	} {
		got, err := load(t, dir, threeLines+c.content)
		if err != nil {
			t.Errorf("%s: %v", c.summary, err)
			continue
		}
		if diff := cmp.Diff(c.want, got.Keep); diff != "" {
			t.Errorf("%s: %s", c.summary, diff)
		}
	}
	for content, want := range map[string]string{
		"keep: [data]":                  `:4:8: keep[0]: "data" is neither`,
		"keep: [/srv/../etc]":           `"/srv/../etc" is neither`,
		"keep: [/srv/data/]":            `"/srv/data/" is neither`,
		"keep: [/usr/local]":            `"/usr/local" belongs to the system`,
		"keep: [/]":                     `"/" belongs to the system`,
		"keep: [/etc/hatchery/x]":       `belongs to the system`,
		"keep: [/etc]":                  `"/etc" belongs to the system`,
		"keep: [/tmp/x]":                `"/tmp/x" belongs to the system`,
		"keep: [/var/tmp]":              `"/var/tmp" belongs to the system`,
		"keep: [/var/tmp/x]":            `"/var/tmp/x" belongs to the system`,
		"keep: [/var/run]":              `"/var/run" belongs to the system`,
		"keep: [/var/run/x]":            `"/var/run/x" belongs to the system`,
		"keep: [/var/lock]":             `"/var/lock" belongs to the system`,
		"keep: [/var/lock/x]":           `"/var/lock/x" belongs to the system`,
		"keep: [/var/lib/docker/a]":     `"/var/lib/docker/a" is Docker's own`,
		"keep: [volumes, /a, volumes]":  `"volumes" stands here twice`,
		"keep: [/srv/a, /srv/a/b]":      `:4:16: keep[1]: "/srv/a/b" lies within "/srv/a", which is kept`,
		"keep:\n- /srv/a/b/c\n- /srv/a": `:5:3: keep[0]: "/srv/a/b/c" lies within "/srv/a"`,
		"serve: {listen: world}":        `"world" is not one of inner, lan`,
		"hat: {power_on: some}":         `"some" is not one of slots, none`,
	} {
		if _, err := load(t, dir, threeLines+content+"\n"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s gives %v, want %q", content, err, want)
		}
	}
}
