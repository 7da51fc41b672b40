package dependency_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"hatchery/imagebuilder/dependency"
)

// packages writes the paragraphs of an index: what a test does not care for
// is added. A package is a line "name version" and lines with fields below it.
func packages(short string) string {
	var sb strings.Builder
	for paragraph := range strings.SplitSeq(strings.Trim(short, "\n"), "\n\n") {
		head, fields, _ := strings.Cut(strings.Trim(paragraph, "\n"), "\n")
		name, version, _ := strings.Cut(head, " ")
		fmt.Fprintf(&sb, "Package: %s\nVersion: %s\n", name, version)
		if !strings.Contains(fields, "Architecture:") {
			sb.WriteString("Architecture: armel\n")
		}
		if fields != "" {
			sb.WriteString(fields + "\n")
		}
		fmt.Fprintf(&sb, "Filename: pool/%s_%s.deb\nSize: 1000\nSHA256: %064x\n\n", name, version, len(name))
	}
	return sb.String()
}

// installed writes the paragraphs of a status file in the same way.
func installed(short string) string {
	if strings.TrimSpace(short) == "" {
		return ""
	}
	var sb strings.Builder
	for paragraph := range strings.SplitSeq(strings.Trim(short, "\n"), "\n\n") {
		head, fields, _ := strings.Cut(strings.Trim(paragraph, "\n"), "\n")
		name, version, _ := strings.Cut(head, " ")
		fmt.Fprintf(&sb, "Package: %s\nVersion: %s\n", name, version)
		if !strings.Contains(fields, "Status:") {
			sb.WriteString("Status: install ok installed\n")
		}
		if !strings.Contains(fields, "Architecture:") {
			sb.WriteString("Architecture: armel\n")
		}
		if fields != "" {
			sb.WriteString(fields + "\n")
		}
		sb.WriteString("\n")
	}
	return sb.String()
}

// source is an index with its APT priority.
type source struct {
	priority int
	text     string
}

func universe(t testing.TB, status string, sources ...source) *dependency.Universe {
	t.Helper()
	u := dependency.NewUniverse("armel")
	for i, s := range sources {
		o := &dependency.Origin{Name: fmt.Sprintf("https://archive.example/%d", i), Priority: s.priority, Index: i}
		if err := u.ReadIndex(strings.NewReader(packages(s.text)), o); err != nil {
			t.Fatal(err)
		}
	}
	if err := u.ReadStatus(strings.NewReader(installed(status))); err != nil {
		t.Fatal(err)
	}
	return u
}

// resolve tells what comes out as text: a line a package, or the error.
func resolve(t testing.TB, u *dependency.Universe, wants string, o dependency.Options) string {
	t.Helper()
	var wanted []dependency.Want
	for text := range strings.FieldsSeq(wants) {
		name, version, _ := strings.Cut(text, "=")
		wanted = append(wanted, dependency.Want{Name: name, Version: version})
	}
	s, err := u.Resolve(context.Background(), wanted, o)
	if err != nil {
		return err.Error()
	}
	var words []string
	for _, p := range s.Install {
		word := p.Name
		if p.Architecture != "armel" && p.Architecture != "all" {
			word += ":" + p.Architecture
		}
		word += "=" + p.Version
		if p.Replaces != "" {
			word += "<" + p.Replaces
		}
		if !p.Automatic {
			word += "!"
		}
		words = append(words, word)
	}
	for _, p := range s.Present {
		words = append(words, "there:"+p.Name+"="+p.Version)
	}
	if len(words) == 0 {
		return "nothing"
	}
	return strings.Join(words, " ")
}

// TestResolve has tiny universes: what is installed, what an archive has
// (of priority 500; a second one is there in some), and what is wanted.
func TestResolve(t *testing.T) {
	for _, c := range []struct {
		summary             string
		status, index, more string
		priority            int // of more
		wants               string
		options             dependency.Options
		want                string
	}{
		{summary: "one package", index: "a 1", wants: "a", want: "a=1!"},
		{summary: "nothing wanted", index: "a 1", wants: "", want: "nothing"},
		{summary: "what is there stays", status: "a 1", index: "a 2", wants: "a", want: "there:a=1"},
		{summary: "a chain, in the order of dpkg", index: "a 1\nDepends: b, c\n\nb 1\nDepends: c\n\nc 1", wants: "a", want: "c=1 b=1 a=1!"},
		{summary: "a dependency that is there is left alone", status: "b 1", index: "a 1\nDepends: b (>= 1)\n\nb 2", wants: "a", want: "a=1!"},
		{summary: "of several versions the newest", index: "a 1\n\na 10\n\na 9", wants: "a", want: "a=10!"},
		{summary: "an exact version", index: "a 1\n\na 2", wants: "a=1", want: "a=1!"},
		{summary: "an exact version that is not there", index: "a 1\n\na 2", wants: "a=3", want: "there is no version 3 of a; there is 2 and 1"},
		{summary: "two versions of one", index: "a 1\n\na 2", wants: "a=1 a=2", want: "a is wanted in two versions, 1 and 2"},

		// Alternatives and virtual packages.
		{summary: "the first alternative", index: "a 1\nDepends: b | c\n\nb 1\n\nc 1", wants: "a", want: "b=1 a=1!"},
		{summary: "an alternative that is there", status: "c 1", index: "a 1\nDepends: b | c\n\nb 1\n\nc 1", wants: "a", want: "a=1!"},
		{summary: "the first one that there is", index: "a 1\nDepends: b | c\n\nc 1", wants: "a", want: "c=1 a=1!"},
		{summary: "the first one that works", index: "a 1\nDepends: b | c\n\nb 1\nDepends: none\n\nc 1", wants: "a", want: "c=1 a=1!"},
		{summary: "the first one that works further down", index: "a 1\nDepends: b | c\n\nb 1\nDepends: d\n\nd 1\nDepends: none\n\nc 1", wants: "a", want: "c=1 a=1!"},
		{summary: "a provider", index: "a 1\nDepends: mta\n\nb 1\nProvides: mta", wants: "a", want: "b=1 a=1!"},
		{summary: "of providers the one of the higher priority", index: "a 1\nDepends: mta\n\nb 1\nProvides: mta\nPriority: optional\n\nc 1\nProvides: mta\nPriority: standard\n\nd 1\nProvides: mta\nPriority: optional", wants: "a", want: "c=1 a=1!"},
		{summary: "of equal providers the one that was mentioned last", index: "a 1\nDepends: mta\n\nb 1\nProvides: mta\n\nc 1\nProvides: mta", wants: "a", want: "c=1 a=1!"},
		{summary: "the package of that name before its providers", index: "a 1\nDepends: b\n\nb 1\nPriority: extra\n\nc 1\nProvides: b\nPriority: required", wants: "a", want: "b=1 a=1!"},
		{summary: "a provider that is there", status: "b 1\nProvides: mta", index: "a 1\nDepends: d | mta\n\nd 1\n\nc 1\nProvides: mta", wants: "a", want: "a=1!"},
		{summary: "a Provides without a version meets no version", index: "a 1\nDepends: b (>= 1)\n\nc 5\nProvides: b", wants: "a",
			want: "a cannot be installed:\n  a 1 needs b (>= 1), but b is provided by c 5 only"},
		{summary: "a versioned Provides", index: "a 1\nDepends: b (>= 2)\n\nc 1\nProvides: b (= 1)\n\nd 1\nProvides: b (= 3)\n\ne 1\nProvides: b (= 1:0)\nPriority: extra", wants: "a", want: "d=1 a=1!"},
		{summary: "a Provides with another operator counts for nothing", index: "a 1\nDepends: b\n\nc 1\nProvides: b (>= 1)", wants: "a", want: "a cannot be installed:\n  a 1 needs b, but no source has b"},
		{summary: "wanting what one package provides", index: "b 1\nProvides: mta", wants: "mta", want: "b=1!"},
		{summary: "wanting what several provide", index: "b 1\nProvides: mta\n\nc 1\nProvides: mta", wants: "mta", want: "mta is no package, but something that packages provide: name one of b or c"},
		{summary: "only the version that would be installed provides", index: "a 1\nDepends: mta\n\nb 1\nProvides: mta\n\nb 2", wants: "a", want: "a cannot be installed:\n  a 1 needs mta, but mta is provided by b 1 only"},

		// Conflicts and Breaks.
		{summary: "a conflict with what is there", status: "b 1", index: "a 1\nConflicts: b", wants: "a",
			want: "a cannot be installed:\n  a 1 conflicts with b 1: that is in the base image, and nothing there is removed"},
		{summary: "what is there conflicts", status: "b 1\nConflicts: a", index: "a 1", wants: "a",
			want: "a cannot be installed:\n  b 1 of the base image conflicts with a 1, and nothing there is removed"},
		{summary: "a conflict with what somebody provides", status: "b 1\nProvides: mta", index: "a 1\nDepends: c\n\nc 1\nConflicts: mta\nProvides: mta", wants: "a",
			want: "a cannot be installed:\n  a 1 needs c\n    c 1 conflicts with mta, which b 1 provides: that is in the base image, and nothing there is removed"},
		{summary: "providing what it conflicts with itself", index: "a 1\nConflicts: mta\nProvides: mta", wants: "a", want: "a=1!"},
		{summary: "a conflict with other versions", status: "b 2", index: "a 1\nConflicts: b (<< 2)", wants: "a", want: "a=1!"},
		{summary: "two that conflict", index: "a 1\nBreaks: b\n\nb 1", wants: "a b", want: "a and b cannot be installed:\n  a 1 breaks b 1: that is wanted, too"},
		{summary: "an alternative around a conflict", status: "x 1", index: "a 1\nDepends: b | c\n\nb 1\nConflicts: x\n\nc 1", wants: "a", want: "c=1 a=1!"},
		{summary: "an alternative around a conflict further down", status: "x 1", index: "a 1\nDepends: b | c\n\nb 1\nDepends: d\n\nd 1\nConflicts: x\n\nc 1", wants: "a", want: "c=1 a=1!"},
		{summary: "going back on an earlier choice", index: "a 1\nDepends: b | c, d\n\nb 1\n\nc 1\n\nd 1\nDepends: e\n\ne 1\nConflicts: b", wants: "a", want: "c=1 e=1 d=1 a=1!"},
		{summary: "going back on a choice two levels up", index: "a 1\nDepends: b, c\n\nb 1\nDepends: p | q\n\np 1\nDepends: r\n\nr 1\n\nq 1\n\nc 1\nDepends: s | t\n\ns 1\nConflicts: r\n\nt 1\nConflicts: p", wants: "a", want: "q=1 b=1 s=1 c=1 a=1!"},
		{summary: "conflicts wherever one turns", index: "a 1\nDepends: b | c, d\n\nb 1\n\nc 1\n\nd 1\nConflicts: b, c", wants: "a",
			want: "a cannot be installed:\n  a 1 needs b | c\n  a 1 needs d\n    d 1 conflicts with b 1\n    d 1 conflicts with c 1"},

		// Unsatisfiable.
		{summary: "no such package", index: "docker.io 1", wants: "dokcer.io", want: "no source has a package dokcer.io; did you mean docker.io?"},
		{summary: "no such package, nor anything like it", index: "a 1", wants: "zzzz", want: "no source has a package zzzz"},
		{summary: "only mentioned", index: "a 1\nSuggests: b", wants: "b", want: "no source has a package b"},
		{summary: "a chain to what is not there", index: "a 1\nDepends: b\n\nb 1\nDepends: c (>= 2) | d\n\nc 1", wants: "a",
			want: "a cannot be installed:\n  a 1 needs b\n    b 1 needs c (>= 2) | d, but the sources have c 1 only, and no source has d"},

		// Upgrades.
		{summary: "an upgrade is refused", status: "b 1", index: "a 1\nDepends: b (>= 2)\n\nb 2", wants: "a",
			want: "a would change what the base image has: b from 1 to 2\n  a 1 needs b (>= 2), but the base image has b 1\nAllow it with `docker: {upgrade: true}`, or take a newer base image"},
		{summary: "an upgrade is allowed", status: "b 1", index: "a 1\nDepends: b (>= 2)\n\nb 2", wants: "a", options: dependency.Options{Upgrade: true}, want: "b=2<1! a=1!"},
		{summary: "another alternative rather than an upgrade", status: "b 1", index: "a 1\nDepends: b (>= 2) | c\n\nb 2\n\nc 1", wants: "a", want: "c=1 a=1!"},
		{summary: "what is wanted is upgraded where that is allowed", status: "a 1", index: "a 2", wants: "a", options: dependency.Options{Upgrade: true}, want: "a=2<1!"},
		{summary: "what is not asked for is not", status: "b 1", index: "a 1\nDepends: b\n\nb 2", wants: "a", options: dependency.Options{Upgrade: true}, want: "a=1!"},
		{summary: "Breaks of an older version upgrade it", status: "b 1", index: "a 1\nBreaks: b (<< 2)\n\nb 2", wants: "a", options: dependency.Options{Upgrade: true}, want: "a=1! b=2<1!"},
		{summary: "an upgrade takes along who needs the old one", status: "b 1\n\nc 1\nDepends: b (= 1)", index: "a 1\nDepends: b (>= 2)\n\nb 2\n\nc 2\nDepends: b (= 2)", wants: "a", options: dependency.Options{Upgrade: true}, want: "b=2<1! a=1! c=2<1!"},
		{summary: "an upgrade takes along its source's others", status: "b 1\nSource: s\n\nc 1\nSource: s", index: "a 1\nDepends: b (>= 2)\n\nb 2\nSource: s\n\nc 2\nSource: s", wants: "a", options: dependency.Options{Upgrade: true}, want: "b=2<1! a=1! c=2<1!"},
		{summary: "on hold, and an upgrade is allowed", status: "b 1\nStatus: hold ok installed", index: "a 1\nDepends: b (>= 2)\n\nb 2", wants: "a", options: dependency.Options{Upgrade: true},
			want: "a cannot be installed:\n  a 1 needs b (>= 2), but the base image has b 1 on hold"},
		{summary: "a wanted version instead of the one that is there", status: "a 1", index: "a 2", wants: "a=2",
			want: "a=2 would change what the base image has: a from 1 to 2\n  a is wanted in version 2, and the base image has 1\nAllow it with `docker: {upgrade: true}`, or take a newer base image"},
		{summary: "an older one, asked for", status: "a 2", index: "a 1", wants: "a=1", options: dependency.Options{Upgrade: true}, want: "a=1<2!"},
		{summary: "an upgrade would not help either", status: "b 1", index: "a 1\nDepends: b (>= 3)\n\nb 2", wants: "a",
			want: "a cannot be installed:\n  a 1 needs b (>= 3), but the sources have b 2 and b 1 only"},

		// States of dpkg.
		{summary: "only its configuration is there", status: "b 1\nStatus: deinstall ok config-files", index: "a 1\nDepends: b\n\nb 2", wants: "a", want: "b=2 a=1!"},
		{summary: "unpacked counts as there", status: "b 1\nStatus: install ok unpacked", index: "a 1\nDepends: b\n\nb 2", wants: "a", want: "a=1!"},
		{summary: "half-installed does not", status: "b 1\nStatus: install reinstreq half-installed", index: "a 1\nDepends: b\n\nb 2", wants: "a",
			want: "a would change what the base image has: b from 1 to 2\n  a 1 needs b, but the base image has b 1 only half-installed\nAllow it with `docker: {upgrade: true}`, or take a newer base image"},
		{summary: "half-installed, made whole", status: "b 1\nStatus: install reinstreq half-installed", index: "a 1\nDepends: b\n\nb 1", wants: "a", options: dependency.Options{Upgrade: true}, want: "b=1<1! a=1!"},
		{summary: "what is broken in the image is not ours", status: "x 1\nDepends: gone", index: "a 1", wants: "a", want: "a=1!"},
		{summary: "installed, and in no source any more", status: "b 1", index: "a 1\nDepends: b", wants: "a b", want: "a=1! there:b=1"},

		// Loops.
		{summary: "a loop", index: "a 1\nDepends: b\n\nb 1\nDepends: a", wants: "b", want: "a=1 b=1!"},
		{summary: "a loop with a Pre-Depends in it", index: "a 1\nDepends: b\n\nb 1\nDepends: c\n\nc 1\nPre-Depends: a", wants: "c", want: "b=1 a=1 c=1!"},
		{summary: "depending on itself", index: "a 1\nDepends: a", wants: "a", want: "a=1!"},

		// Recommends.
		{summary: "recommended", index: "a 1\nRecommends: b\nSuggests: c\n\nb 1\n\nc 1", wants: "a", want: "a=1!"},
		{summary: "recommended, and asked for", index: "a 1\nRecommends: b\nSuggests: c\n\nb 1\n\nc 1", wants: "a", options: dependency.Options{Recommends: true}, want: "a=1! b=1"},
		{summary: "recommended, and not to be had", index: "a 1\nRecommends: b, c, none\n\nb 1\nDepends: none\n\nc 1", wants: "a", options: dependency.Options{Recommends: true}, want: "a=1! c=1"},
		{summary: "recommended, and in conflict", index: "a 1\nRecommends: b, d\nDepends: e | f\n\nb 1\nConflicts: a\n\nd 1\n\ne 1\nConflicts: a\n\nf 1", wants: "a", options: dependency.Options{Recommends: true}, want: "f=1 a=1! d=1"},

		// Priorities of sources.
		{summary: "backports wait to be asked", index: "a 1", more: "a 2", priority: 100, wants: "a", want: "a=1!"},
		{summary: "backports, asked for", index: "a 1\n\nb 1", more: "a 2\nDepends: b", priority: 100, wants: "a=2", want: "b=1 a=2!"},
		{summary: "backports alone have it", index: "b 1", more: "a 2", priority: 100, wants: "a", want: "a=2!"},
		{summary: "a source that is ruled out", index: "b 1", more: "a 2", priority: -1, wants: "a", want: "a cannot be installed: the priorities of its sources rule it out: 2 (-1)"},
		{summary: "a dependency of a source that is ruled out", index: "a 1\nDepends: b", more: "b 2", priority: -1, wants: "a", want: "a cannot be installed:\n  a 1 needs b, but the priorities of its sources rule it out: 2 (-1)"},
		{summary: "no downgrade", status: "a 2", index: "a 1", wants: "a", options: dependency.Options{Upgrade: true}, want: "there:a=2"},
		{summary: "a downgrade by a pin of 1000", status: "a 2", more: "a 1", index: "b 1", priority: 1000, wants: "a", options: dependency.Options{Upgrade: true}, want: "a=1<2!"},
		{summary: "no upgrade from a source of 1", status: "a 1", more: "a 2", index: "b 1", priority: 1, wants: "a", options: dependency.Options{Upgrade: true}, want: "there:a=1"},
		{summary: "an upgrade from backports, where it came from there", status: "a 2", index: "a 1", more: "a 2\n\na 3", priority: 100, wants: "a", options: dependency.Options{Upgrade: true}, want: "a=3<2!"},

		// Locked versions.
		{summary: "what is locked stays", index: "a 2\nDepends: b\n\nb 1\n\nb 2\n\na 1\nDepends: b", wants: "a", options: dependency.Options{Prefer: map[string]string{"b": "1", "a": "1"}}, want: "b=1 a=1!"},
		{summary: "unless it is gone", index: "a 2\nDepends: b\n\nb 2", wants: "a", options: dependency.Options{Prefer: map[string]string{"b": "1", "a": "1"}}, want: "b=2 a=2!"},
		{summary: "unless it does not fit any more", index: "a 2\nDepends: b (>= 2), c\n\nb 1\n\nb 2\n\nc 1\n\nc 2", wants: "a", options: dependency.Options{Prefer: map[string]string{"b": "1", "c": "1"}}, want: "b=2 c=1 a=2!"},
		{summary: "what is installed stays before what is locked", status: "b 2", index: "a 2\nDepends: b\n\nb 1", wants: "a", options: dependency.Options{Prefer: map[string]string{"b": "1"}}, want: "a=2!"},

		// Several architectures.
		{summary: "for all architectures", index: "a 1\nArchitecture: all\nDepends: b\n\nb 1", wants: "a", want: "b=1 a=1!"},
		{summary: "a qualifier: any", index: "a 1\nDepends: python3:any\n\npython3 1\nMulti-Arch: allowed", wants: "a", want: "python3=1 a=1!"},
		{summary: "a qualifier: any, of one that does not allow it", index: "a 1\nDepends: b:any\n\nb 1", wants: "a", want: "a cannot be installed:\n  a 1 needs b:any, but b 1 is not Multi-Arch: allowed"},
		{summary: "a qualifier: native", index: "a 1\nDepends: b:native\n\nb 1", wants: "a", want: "b=1 a=1!"},
		{summary: "another architecture's", index: "a 1\nDepends: b:armhf\n\nb 1\n\nb 1\nArchitecture: armhf", wants: "a", want: "b:armhf=1 a=1!"},
		{summary: "another architecture's, wanted", index: "a 1\nArchitecture: armhf\nDepends: b, c, d\n\nb 1\n\nb 1\nArchitecture: armhf\n\nc 1\nMulti-Arch: foreign\n\nd 1\nArchitecture: all\nMulti-Arch: foreign", wants: "a:armhf", want: "b:armhf=1 c=1 d=1 a:armhf=1!"},
		{summary: "another architecture's is not meant", status: "b 1\nArchitecture: armhf", index: "a 1\nDepends: b\n\nb 1\nMulti-Arch: same", wants: "a",
			want: "a cannot be installed:\n  a 1 needs b\n    b 1 and b:armhf 1 of the base image cannot be there both: they are for different architectures, and not of one version that is Multi-Arch: same"},
		{summary: "two architectures' side by side", status: "b 1\nArchitecture: armhf\nMulti-Arch: same", index: "a 1\nDepends: b\n\nb 1\nMulti-Arch: same", wants: "a", want: "b=1 a=1!"},
		{summary: "two architectures' of different versions", status: "b 1\nArchitecture: armhf\nMulti-Arch: same", index: "b 2\nMulti-Arch: same", wants: "b",
			want: "b cannot be installed:\n  b 2 and b:armhf 1 of the base image cannot be there both: they are for different architectures, and not of one version that is Multi-Arch: same"},
		{summary: "a Multi-Arch: same package conflicts with its own name", status: "b 1\nArchitecture: armhf\nMulti-Arch: same\nConflicts: b, v\nProvides: v", index: "b 1\nMulti-Arch: same\nConflicts: b, v\nProvides: v", wants: "b", want: "b=1!"},
		{summary: "restrictions do no harm", index: "a 1\nDepends: b [armhf], c [!armhf], d <!nocheck>, e <cross>, f [linux-any] | g\n\nc 1\n\nd 1\n\nf 1", wants: "a", want: "c=1 d=1 f=1 a=1!"},
		{summary: "essential packages that are missing are not our business", index: "a 1\n\nb 1\nEssential: yes", wants: "a", want: "a=1!"},
	} {
		t.Run(c.summary, func(t *testing.T) {
			sources := []source{{500, c.index}}
			if c.more != "" {
				sources = append(sources, source{c.priority, c.more})
			}
			u := universe(t, c.status, sources...)
			got := resolve(t, u, c.wants, c.options)
			if got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
			// Asked again it says the same: nothing is left behind.
			if again := resolve(t, u, c.wants, c.options); again != got {
				t.Errorf("and then\n%s", again)
			}
		})
	}
}
