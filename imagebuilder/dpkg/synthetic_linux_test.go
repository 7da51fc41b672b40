package dpkg_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hatchery/imagebuilder/deb/debtest"
	"hatchery/imagebuilder/dpkg"
)

// pkg is a package for a test.
type pkg struct {
	name, version string
	arch          string // all; "native" is this machine's
	fields        []string
	files         []debtest.File
	options       []debtest.Option
	scripts       string // names of scripts that write down how they are called
}

func (p pkg) build(t testing.TB) []byte {
	t.Helper()
	switch p.arch {
	case "":
		p.arch = "all"
	case "native":
		p.arch = architecture(t)
	}
	options := p.options
	for name := range strings.FieldsSeq(p.scripts) {
		options = append(options, debtest.Script(name, "#!/bin/sh\necho \"$DPKG_MAINTSCRIPT_PACKAGE $DPKG_MAINTSCRIPT_NAME $*\" >>\"$SCRIPTS\"\n"))
	}
	if p.version == "" {
		p.version = "1"
	}
	return debtest.Build(t, debtest.Control(p.name, p.version, p.arch, p.fields...), p.files, options...)
}

func build(t testing.TB, packages []pkg) [][]byte {
	t.Helper()
	var list [][]byte
	for _, p := range packages {
		list = append(list, p.build(t))
	}
	return list
}

func file(path, content string) debtest.File { return debtest.File{Path: path, Content: content} }

// A scenario is a tree, packages that dpkg installs there beforehand, and
// packages that it and we unpack then.
type scenario struct {
	summary string
	tree    func(testing.TB, *tree)
	before  []pkg
	removed string // of before, removed with their configuration files left
	late    func(testing.TB, *tree)
	unpack  []pkg
	options dpkg.Options
	skip    string // not compared
	err     string // both refuse, and we say this
	kind    any    // a pointer to what the error has in it
}

var allScripts = "preinst postinst prerm postrm"

func scenarios() []scenario {
	return []scenario{
		{
			summary: "files of every kind, with owners by name before number",
			unpack: []pkg{{name: "kinds", files: []debtest.File{
				{Path: "/usr/share/kinds", Mode: fs.ModeDir | 0o2775, Group: "staff", GID: 7},
				{Path: "/usr/share/empty", Mode: fs.ModeDir | fs.ModeSticky | 0o777, ModTime: time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)},
				{Path: "/usr/bin/su", Content: "su", Mode: fs.ModeSetuid | 0o755},
				{Path: "/usr/share/kinds/mail", Content: "m", User: "mail", Group: "mail", UID: 1234, GID: 1234},
				{Path: "/usr/share/kinds/nobody", Content: "n", User: "stranger", Group: "strangers", UID: 4321, GID: 5432},
				{Path: "/usr/share/kinds/numbers", Content: "n", UID: 17, GID: 18, Mode: 0o600},
				{Path: "/usr/share/kinds/before1970", Content: "n", ModTime: time.Unix(1, 0)},
				{Path: "/usr/share/kinds/empty"},
				{Path: "/usr/share/kinds/large", Content: strings.Repeat("0123456789", 30000)},
				debtest.HardLink("/usr/share/kinds/also", "/usr/share/kinds/mail"),
				debtest.Symlink("/usr/share/kinds/link", "../nowhere"),
				debtest.Symlink("/usr/share/kinds/abs", "/usr/bin/su"),
				{Path: "/usr/share/kinds/owned", Mode: fs.ModeSymlink, Link: "x", User: "alice", UID: 1000},
				{Path: "/usr/share/kinds/pipe", Mode: fs.ModeNamedPipe | 0o640},
				{Path: "/usr/share/kinds/null", Mode: fs.ModeDevice | fs.ModeCharDevice | 0o666, Major: 1, Minor: 3},
				{Path: "/usr/share/kinds/disk", Mode: fs.ModeDevice | 0o660, Major: 8, Minor: 300, Group: "staff"},
				{Path: "/usr/share/kinds/" + strings.Repeat("long", 40), Content: "x"},
				{Path: "/usr/share/kinds/ünï \"cödé\"", Content: "x"},
			}}},
		},
		{
			summary: "a system whose /bin and /lib are links into /usr",
			unpack: []pkg{{name: "merged", files: []debtest.File{
				debtest.Executable("/bin/tool", "tool"), file("/lib/merged/data", "data"), debtest.Symlink("/lib/merged/l", "data"), file("/usr/lib/merged/more", "more"),
				debtest.HardLink("/usr/bin/tool2", "/bin/tool"),
			}}},
		},
		{
			summary: "two paths that are one file there",
			unpack:  []pkg{{name: "twice", files: []debtest.File{file("/lib/x", "1"), file("/usr/lib/x", "2")}}},
			err:     "cannot unpack 00.deb: /lib/x and /usr/lib/x are one file in this image, where a folder of theirs is a link: dpkg cannot unpack that either",
		},
		{
			summary: "an upgrade that moves files from /lib to /usr/lib, where they are",
			before:  []pkg{{name: "moves", files: []debtest.File{file("/lib/moves/x", "1"), file("/lib/moves/conf", "1")}, options: []debtest.Option{debtest.Conffiles("/lib/moves/conf")}}},
			unpack:  []pkg{{name: "moves", version: "2", files: []debtest.File{file("/usr/lib/moves/x", "2"), file("/usr/lib/moves/conf", "2")}, options: []debtest.Option{debtest.Conffiles("/usr/lib/moves/conf")}}},
			options: dpkg.Options{Upgrade: true},
		},
		{
			summary: "folders and links to folders that are there stay",
			tree: func(t testing.TB, tr *tree) {
				tr.mkdir(t, "opt/there")
				check(t, os.Chmod(filepath.Join(tr.dir, "opt/there"), 0o700))
				tr.mkdir(t, "opt/real")
				check(t, os.Symlink("real", filepath.Join(tr.dir, "opt/linked")))
				check(t, os.Symlink("nowhere", filepath.Join(tr.dir, "opt/dangling")))
				tr.mkdir(t, "opt/wasdir")
				check(t, os.Symlink("there", filepath.Join(tr.dir, "opt/same")))
				check(t, os.Symlink("there", filepath.Join(tr.dir, "opt/other")))
			},
			unpack: []pkg{{name: "folders", files: []debtest.File{
				debtest.Dir("/opt/there/"), file("/opt/there/x", "x"), debtest.Dir("/opt/linked/"), file("/opt/linked/y", "y"),
				debtest.Dir("/opt/dangling/"), file("/opt/dangling/d", "d"),
				debtest.Symlink("/opt/wasdir", "there"), debtest.Symlink("/opt/same", "./there"), debtest.Symlink("/opt/other", "real"),
			}}},
		},
		{
			summary: "what is nobody's is replaced, and its other names keep it",
			tree: func(t testing.TB, tr *tree) {
				tr.write(t, "opt/file", "old")
				check(t, os.Link(filepath.Join(tr.dir, "opt/file"), filepath.Join(tr.dir, "opt/kept")))
				tr.write(t, "opt/victim", "not to be written to")
				check(t, os.Symlink("victim", filepath.Join(tr.dir, "opt/link")))
				tr.write(t, "opt/dir/a/b", "b")
				tr.write(t, "opt/plain", "plain")
				tr.write(t, "opt/stale.dpkg-new", "left over")
				tr.write(t, "opt/stale.dpkg-tmp", "left over")
				tr.write(t, "opt/gone.dpkg-tmp", "moved aside")
				check(t, unix.Mkfifo(filepath.Join(tr.dir, "opt/pipe"), 0o600))
			},
			unpack: []pkg{{name: "replacer", files: []debtest.File{
				file("/opt/file", "new"), file("/opt/link", "a file now"), file("/opt/dir", "a file now"), debtest.Dir("/opt/plain/"), file("/opt/plain/in", "in"), file("/opt/stale", "s"), file("/opt/gone", "g"),
				debtest.Symlink("/opt/pipe", "file"),
			}}},
		},
		{
			summary: "configuration files: there and the same, there and other, not there, a link",
			tree: func(t testing.TB, tr *tree) {
				tr.write(t, "etc/same", "content\n")
				tr.write(t, "etc/other", "changed\n")
				tr.write(t, "etc/there", "elsewhere\n")
				check(t, os.Symlink("there", filepath.Join(tr.dir, "etc/link")))
			},
			unpack: []pkg{{name: "conf", files: []debtest.File{
				file("/etc/same", "content\n"), file("/etc/other", "content\n"), file("/etc/new", "content\n"), file("/etc/link", "content\n"), debtest.HardLink("/etc/new2", "/etc/new"),
				file("/etc/plain", "no conffile"),
			}, options: []debtest.Option{debtest.Conffiles("/etc/other", "/etc/same", "/etc/new", "/etc/link", "/etc/new2", "/etc/absent")}}},
		},
		{
			summary: "md5sums are made where there are none, of conffiles too",
			unpack: []pkg{
				{name: "sums", files: []debtest.File{file("/etc/conf", "c"), file("/opt/a", "a"), debtest.HardLink("/opt/b", "/opt/a"), debtest.Symlink("/opt/c", "a")},
					options: []debtest.Option{debtest.WithoutMD5Sums(), debtest.Conffiles("/etc/conf")}},
				{name: "nothing", options: []debtest.Option{debtest.WithoutMD5Sums()}},
			},
		},
		{
			summary: "control files of all sorts, and any compression",
			unpack: []pkg{
				{name: "gz", files: []debtest.File{file("/opt/gz", "x")}, options: []debtest.Option{debtest.Compression("gz"), debtest.ControlCompression("gz")}},
				{name: "zst", files: []debtest.File{file("/opt/zst", "x")}, options: []debtest.Option{debtest.Compression("none")}},
				{name: "files", options: []debtest.Option{debtest.ControlFile("templates", "Template: x\n"), debtest.ControlFile("shlibs", "libx 1 x\n"), debtest.ControlFile("with.dot", "x"), debtest.ControlFile("odd_Name", "x")}, scripts: allScripts},
			},
		},
		{
			summary: "fields are written in dpkg's order and form",
			unpack: []pkg{{name: "fields", version: "0:1.0-1", arch: "native", fields: []string{
				"Description: short\n long\n .\n\ttab\n  indented", "X-Custom: v", "custom-two: a\n b", "Homepage: https://archive.example/", "Depends: dpkg(>=1.0)|nothing:any ,  dpkg (<< 0:99)", "Multi-Arch: no", "Essential: no", "Priority: Optional",
				"Section: misc", "Installed-Size: 12", "Source: src (1.0)", "Tag: a::b", "Provides: p (= 0:2), q", "Suggests: s (>> 1:0)", "Enhances: e", "Replaces: r (<< 2)", "Recommends: rec | rec2 (= 1-1)", "Filename: x", "Size: 3", "Origin: o", "Bugs: b", "Built-Using: gcc (= 1)", "Protected: yes", "Original-Maintainer: me <me@archive.example>",
			}}},
		},
		{
			summary: "Multi-Arch: same names its files with the architecture",
			unpack: []pkg{{name: "libsame", arch: "native", fields: []string{"Multi-Arch: same"}, files: []debtest.File{file("/usr/lib/libsame.so.1", "x")}, scripts: "preinst postinst",
				options: []debtest.Option{debtest.ControlFile("triggers", "interest /usr/lib/plugins\ninterest-noawait same-word\nactivate-noawait ldconfig\n")}},
				{name: "foreign", arch: "native", fields: []string{"Multi-Arch: foreign"}}, {name: "allowed", arch: "native", fields: []string{"Multi-Arch: allowed"}}},
		},
		{
			summary: "files of another package are taken with Replaces",
			before:  []pkg{{name: "old", files: []debtest.File{file("/opt/shared/a", "old a"), file("/opt/shared/b", "old b"), file("/etc/moves", "old")}, options: []debtest.Option{debtest.Conffiles("/etc/moves")}}},
			unpack:  []pkg{{name: "new", fields: []string{"Replaces: old (<< 2)"}, files: []debtest.File{file("/opt/shared/a", "new a"), file("/etc/moves", "new")}, options: []debtest.Option{debtest.Conffiles("/etc/moves")}}},
		},
		{
			summary: "files stay another package's that replaces this one",
			before:  []pkg{{name: "winner", fields: []string{"Replaces: loser"}, files: []debtest.File{file("/opt/a", "winner"), file("/etc/c", "winner"), debtest.Symlink("/opt/l", "a")}, options: []debtest.Option{debtest.Conffiles("/etc/c")}}},
			unpack:  []pkg{{name: "loser", files: []debtest.File{file("/opt/a", "loser"), file("/opt/b", "loser"), file("/etc/c", "loser"), file("/opt/l", "x")}, options: []debtest.Option{debtest.Conffiles("/etc/c")}}},
		},
		{
			summary: "a package that is replaced whole disappears",
			before:  []pkg{{name: "gone", files: []debtest.File{file("/opt/x/a", "1"), file("/opt/x/b", "2")}, scripts: allScripts, options: []debtest.Option{debtest.ControlFile("triggers", "interest /opt/y\n")}}, {name: "bystander", files: []debtest.File{file("/opt/x/c", "3")}}},
			unpack:  []pkg{{name: "heir", fields: []string{"Replaces: gone"}, files: []debtest.File{file("/opt/x/a", "new"), file("/opt/x/b", "new")}}},
		},
		{
			summary: "it does not where another one depends on it",
			before:  []pkg{{name: "gone", fields: []string{"Provides: virtual"}, files: []debtest.File{file("/opt/x/a", "1")}}, {name: "user", fields: []string{"Depends: virtual | nothing"}}},
			unpack:  []pkg{{name: "heir", fields: []string{"Replaces: gone"}, files: []debtest.File{file("/opt/x/a", "new")}}},
		},
		{
			summary: "it does where the new one provides what is needed",
			before:  []pkg{{name: "gone", fields: []string{"Provides: virtual"}, files: []debtest.File{file("/opt/x/a", "1")}}, {name: "user", fields: []string{"Depends: gone"}}},
			unpack:  []pkg{{name: "heir", fields: []string{"Replaces: gone", "Provides: gone"}, files: []debtest.File{file("/opt/x/a", "new")}}},
		},
		{
			summary: "a file of another package is not taken without",
			before:  []pkg{{name: "owner", version: "2:3-4", files: []debtest.File{file("/opt/a", "owner")}}},
			unpack:  []pkg{{name: "thief", fields: []string{"Replaces: owner (<< 2)"}, files: []debtest.File{file("/opt/a", "thief")}}},
			err:     "cannot unpack 00.deb: /opt/a of thief is in owner 2:3-4 too, and neither says that it replaces the other: leave one of the two packages out",
			kind:    new(*dpkg.FileConflictError),
		},
		{
			summary: "two new packages with the same file",
			unpack:  []pkg{{name: "first", files: []debtest.File{file("/opt/a", "x")}}, {name: "second", files: []debtest.File{file("/opt/a", "x")}}},
			err:     "cannot unpack 01.deb: /opt/a of second is in first 1 too, and neither says that it replaces the other: leave one of the two packages out",
			kind:    new(*dpkg.InputError),
		},
		{
			summary: "a folder of another package is not replaced by a file",
			before:  []pkg{{name: "owner", files: []debtest.File{file("/opt/d/a", "owner")}}},
			unpack:  []pkg{{name: "thief", files: []debtest.File{file("/opt/d", "thief")}}},
			err:     "/opt/d of thief is in owner 1 too",
		},
		{
			summary: "Conflicts with what is there",
			before:  []pkg{{name: "engine", version: "5.1", fields: []string{"Provides: virtual"}}},
			unpack:  []pkg{{name: "other", fields: []string{"Conflicts: virtual"}}},
			err:     "cannot unpack 00.deb: other conflicts with virtual, and there is engine 5.1: leave one of the two out",
			kind:    new(*dpkg.RelationError),
		},
		{
			summary: "what is there conflicts",
			before:  []pkg{{name: "engine", version: "5.1", fields: []string{"Conflicts: other (<= 1.0)"}}},
			unpack:  []pkg{{name: "other", version: "1.0"}},
			err:     "engine conflicts with other (<= 1.0), and there is other 1.0",
		},
		{
			summary: "a package may conflict with what it provides itself",
			before:  []pkg{{name: "engine", version: "5.1", fields: []string{"Conflicts: other (<< 1.0)"}}},
			unpack:  []pkg{{name: "other", version: "1.0", fields: []string{"Provides: mail-agent", "Conflicts: mail-agent, engine (<< 5)"}}},
		},
		{
			summary: "Breaks what is there",
			before:  []pkg{{name: "engine", version: "5.1"}},
			unpack:  []pkg{{name: "other", fields: []string{"Breaks: engine (<< 6)"}}},
			err:     "cannot unpack 00.deb: other breaks engine (<< 6), and there is engine 5.1: leave one of the two out, or have both upgraded",
			kind:    new(*dpkg.RelationError),
		},
		{
			summary: "a pre-dependency that is not there",
			unpack:  []pkg{{name: "needy", fields: []string{"Pre-Depends: dpkg, nothing (>= 1) | nobody"}}},
			err:     "cannot unpack 00.deb: needy can only be unpacked when there is nothing (>= 1) | nobody: name it before this package",
			kind:    new(*dpkg.RelationError),
		},
		{
			summary: "diversions by another package, by this one, by the administrator",
			tree: func(t testing.TB, tr *tree) {
				tr.write(t, "var/lib/dpkg/diversions", "/opt/theirs\n/opt/theirs.diverted\nowner\n/opt/mine\n/opt/mine.old\ndiverter\n/opt/local\n/opt/local.diverted\n:\n/etc/conf\n/etc/conf.diverted\n:\n")
			},
			before: []pkg{{name: "owner", files: []debtest.File{file("/opt/theirs", "owner's"), file("/opt/mine", "diverted away"), file("/opt/local", "owner's")}}, {name: "watcher", options: []debtest.Option{debtest.ControlFile("triggers", "interest /opt/theirs\ninterest /opt/theirs.diverted\n")}}},
			unpack: []pkg{{name: "diverter", files: []debtest.File{
				file("/opt/theirs", "diverter's"), file("/opt/mine", "diverter's"), debtest.HardLink("/opt/link", "/opt/theirs"), file("/etc/conf", "c"),
			}, options: []debtest.Option{debtest.Conffiles("/etc/conf")}}},
		},
		{
			summary: "a diverted file has one owner still",
			tree: func(t testing.TB, tr *tree) {
				tr.write(t, "var/lib/dpkg/diversions", "/opt/local\n/opt/local.diverted\n:\n")
			},
			before: []pkg{{name: "owner", files: []debtest.File{file("/opt/local", "owner's")}}},
			unpack: []pkg{{name: "thief", files: []debtest.File{file("/opt/local", "thief's")}}},
			err:    "/opt/local of thief is in owner 1 too",
		},
		{
			summary: "nothing is put where something was diverted to",
			tree: func(t testing.TB, tr *tree) {
				tr.write(t, "var/lib/dpkg/diversions", "/opt/a\n/opt/a.diverted\nowner\n")
			},
			unpack: []pkg{{name: "p", files: []debtest.File{file("/opt/a.diverted", "x")}}},
			err:    "cannot unpack 00.deb: /opt/a.diverted is where package owner has diverted /opt/a to",
		},
		{
			summary: "owners and modes that the administrator set",
			tree: func(t testing.TB, tr *tree) {
				tr.write(t, "var/lib/dpkg/statoverride", "mail staff 4750 /usr/bin/over\n#77 #88 2711 /opt/folder\nroot mail 600 /etc/conf\nroot staff 640 /opt/folder/link\n")
			},
			unpack: []pkg{{name: "p", files: []debtest.File{debtest.Executable("/usr/bin/over", "x"), debtest.Dir("/opt/folder/"), file("/etc/conf", "c"), file("/opt/folder/file", "x"), debtest.HardLink("/opt/folder/link", "/opt/folder/file")}, options: []debtest.Option{debtest.Conffiles("/etc/conf")}}},
		},
		{
			summary: "triggers: of paths and words, awaited and not",
			before: []pkg{
				{name: "waits", options: []debtest.Option{debtest.ControlFile("triggers", "# comment\n\n interest /usr/share/icons \ninterest-await word\ninterest other-word\n")}},
				{name: "noawait", options: []debtest.Option{debtest.ControlFile("triggers", "interest-noawait /usr/share/icons\ninterest-noawait word\ninterest /usr/share/icons/new\n")}},
				{name: "idle", options: []debtest.Option{debtest.ControlFile("triggers", "interest /nowhere\n")}},
			},
			unpack: []pkg{
				{name: "icons", files: []debtest.File{file("/usr/share/icons/new", "x")}},
				{name: "calls", options: []debtest.Option{debtest.ControlFile("triggers", "activate word\nactivate-noawait other-word\nactivate /usr/share/icons/deep/er\nactivate unknown-word\n")}},
				{name: "late", options: []debtest.Option{debtest.ControlFile("triggers", "interest word\ninterest /usr/share/icons\n")}},
				{name: "more", files: []debtest.File{debtest.Symlink("/usr/share/icons/l", "x")}},
			},
		},
		{
			summary: "triggers that nobody has noted yet",
			before: []pkg{
				{name: "one", options: []debtest.Option{debtest.ControlFile("triggers", "interest a\ninterest b\ninterest /usr/share/x\n")}},
				{name: "two", options: []debtest.Option{debtest.ControlFile("triggers", "interest-noawait a\ninterest /usr\n")}},
				{name: "awaiter"},
			},
			late: func(t testing.TB, tr *tree) {
				tr.write(t, "var/lib/dpkg/triggers/Unincorp", "a awaiter\n# comment\n/usr/share/x/y - awaiter\nb -\nunknown two\n")
			},
			unpack: []pkg{{name: "p"}},
		},
		{
			summary: "no Unincorp: all triggers are taken as set off",
			before:  []pkg{{name: "one", options: []debtest.Option{debtest.ControlFile("triggers", "interest a\ninterest /usr/share/x\nactivate b\n")}}, {name: "two"}},
			late: func(t testing.TB, tr *tree) {
				check(t, os.RemoveAll(filepath.Join(tr.dir, "var/lib/dpkg/triggers")))
				tr.mkdir(t, "var/lib/dpkg/triggers")
			},
			unpack: []pkg{{name: "p"}},
			skip:   "/var/lib/dpkg/status-old", // dpkg writes the status file twice then
		},
		{
			summary: "paths that the image's dpkg leaves out",
			tree: func(t testing.TB, tr *tree) {
				tr.write(t, "etc/dpkg/dpkg.cfg.d/01_nodoc", "# no manuals\npath-exclude=/usr/share/doc/*\npath-include /usr/share/doc/*/copyright\npath-exclude \"/usr/share/man/*\"\nforce-unsafe-io\n")
				tr.write(t, "etc/dpkg/dpkg.cfg.d/skipped.bak", "path-exclude=/opt/*\n")
				tr.write(t, "etc/dpkg/dpkg.cfg", "no-debsig\npath-exclude=/usr/share/locale/[a-d]?/x\n")
				tr.filters = []string{"--path-exclude=/usr/share/doc/*", "--path-include=/usr/share/doc/*/copyright", "--path-exclude=/usr/share/man/*", "--path-exclude=/usr/share/locale/[a-d]?/x"}
			},
			unpack: []pkg{{name: "p", options: []debtest.Option{debtest.WithoutMD5Sums()}, files: []debtest.File{
				file("/usr/share/doc/p/copyright", "c"), file("/usr/share/doc/p/changelog", "x"), debtest.Symlink("/usr/share/doc/p/link", "copyright"), file("/usr/share/man/man1/p.1", "x"), file("/usr/share/locale/de/x", "x"), file("/usr/share/locale/en/x", "x"), file("/opt/x", "x"),
			}}},
		},
		{
			summary: "a package of which only the configuration is left",
			before:  []pkg{{name: "back", version: "1.0", files: []debtest.File{file("/etc/kept", "kept"), file("/etc/dropped", "dropped"), file("/opt/x", "x")}, options: []debtest.Option{debtest.Conffiles("/etc/kept", "/etc/dropped")}, scripts: "postrm"}},
			removed: "back",
			unpack:  []pkg{{name: "back", version: "2.0", files: []debtest.File{file("/etc/kept", "new"), file("/opt/y", "x")}, options: []debtest.Option{debtest.Conffiles("/etc/kept")}, scripts: allScripts}},
		},
		{
			summary: "an upgrade: files and folders go, configuration files are kept",
			before: []pkg{{name: "up", version: "1.0", fields: []string{"Section: old", "Priority: extra"}, files: []debtest.File{
				file("/opt/stays", "1"), file("/opt/goes/a", "1"), file("/opt/goes/deep/b", "1"), file("/etc/conf", "1"), file("/etc/obsolete", "1"), debtest.Symlink("/opt/link", "stays"), file("/opt/shared/x", "x"), file("/opt/becomes", "file"),
				debtest.HardLink("/opt/hard", "/opt/stays"),
			}, options: []debtest.Option{debtest.Conffiles("/etc/conf", "/etc/obsolete"), debtest.ControlFile("triggers", "interest old\ninterest /opt/old\ninterest both\ninterest /opt/both\n"), debtest.ControlFile("oldcontrol", "x")}, scripts: allScripts},
				{name: "other", files: []debtest.File{file("/opt/shared/y", "y")}}, {name: "watches", options: []debtest.Option{debtest.ControlFile("triggers", "interest /opt/goes\n")}}},
			late: func(t testing.TB, tr *tree) { tr.write(t, "opt/goes/foreign", "not the package's") },
			unpack: []pkg{{name: "up", version: "1.1", files: []debtest.File{
				file("/opt/stays", "2"), file("/etc/conf", "2"), file("/etc/newconf", "2"), debtest.Dir("/opt/becomes/"), file("/opt/becomes/in", "x"),
			}, options: []debtest.Option{debtest.Conffiles("/etc/conf", "/etc/newconf"), debtest.ControlFile("triggers", "interest-noawait both\ninterest /opt/both\ninterest new\n")}, scripts: allScripts}},
			options: dpkg.Options{Upgrade: true},
		},
		{
			summary: "an upgrade that removes configuration files",
			before:  []pkg{{name: "up", files: []debtest.File{file("/etc/asis", "1"), file("/etc/changed", "1")}, options: []debtest.Option{debtest.Conffiles("/etc/asis", "/etc/changed")}}},
			late: func(t testing.TB, tr *tree) {
				tr.write(t, "etc/changed", "by hand")
				tr.write(t, "etc/changed.dpkg-dist", "x")
			},
			unpack:  []pkg{{name: "up", version: "2", options: []debtest.Option{debtest.Conffiles("remove-on-upgrade /etc/asis", "remove-on-upgrade /etc/changed", "remove-on-upgrade /etc/never")}}},
			options: dpkg.Options{Upgrade: true},
		},
		{
			summary: "an upgrade to Multi-Arch: same, and from it",
			before: []pkg{{name: "tosame", arch: "native", files: []debtest.File{file("/opt/a", "1")}, scripts: "prerm postrm", options: []debtest.Option{debtest.ControlFile("triggers", "interest w\ninterest /opt/w\n")}},
				{name: "fromsame", arch: "native", fields: []string{"Multi-Arch: same"}, files: []debtest.File{file("/opt/b", "1")}, options: []debtest.Option{debtest.ControlFile("triggers", "interest w\ninterest /opt/w\n")}},
				{name: "toall", arch: "native", files: []debtest.File{file("/opt/c", "1")}}},
			unpack: []pkg{{name: "tosame", version: "2", arch: "native", fields: []string{"Multi-Arch: same"}, files: []debtest.File{file("/opt/a", "2")}, scripts: "preinst", options: []debtest.Option{debtest.ControlFile("triggers", "interest w\ninterest /opt/w\n")}},
				{name: "fromsame", version: "2", arch: "native", files: []debtest.File{file("/opt/b", "2")}, options: []debtest.Option{debtest.ControlFile("triggers", "interest w\ninterest /opt/w\n")}},
				{name: "toall", version: "2", files: []debtest.File{file("/opt/c", "2")}}},
			options: dpkg.Options{Upgrade: true},
		},
		{
			summary: "an upgrade of a package that others wait for",
			before:  []pkg{{name: "hub", options: []debtest.Option{debtest.ControlFile("triggers", "interest word\n")}}, {name: "waiter", version: "1"}},
			late: func(t testing.TB, tr *tree) {
				tr.write(t, "var/lib/dpkg/triggers/Unincorp", "word waiter\n")
			},
			unpack:  []pkg{{name: "hub", version: "2", options: []debtest.Option{debtest.ControlFile("triggers", "interest word\n")}}, {name: "waiter", version: "2"}},
			options: dpkg.Options{Upgrade: true},
		},
		{
			summary: "an upgrade that breaks what is upgraded next",
			before:  []pkg{{name: "lib", scripts: allScripts}, {name: "app", fields: []string{"Depends: lib"}, scripts: allScripts}},
			unpack: []pkg{{name: "lib", version: "2", fields: []string{"Breaks: app (<< 2)"}, scripts: allScripts},
				{name: "app", version: "2", fields: []string{"Depends: lib (>= 2)"}, scripts: allScripts}},
			options: dpkg.Options{Upgrade: true},
		},
		{
			summary: "the same version again",
			before:  []pkg{{name: "same", version: "1.0", files: []debtest.File{file("/opt/a", "1"), file("/etc/c", "1")}, options: []debtest.Option{debtest.Conffiles("/etc/c")}, scripts: allScripts}},
			unpack:  []pkg{{name: "same", version: "1.0", files: []debtest.File{file("/opt/a", "1"), file("/etc/c", "1")}, options: []debtest.Option{debtest.Conffiles("/etc/c")}, scripts: allScripts}},
			options: dpkg.Options{Upgrade: true},
		},
		{
			summary: "a header that dpkg does not take",
			unpack:  []pkg{{name: "pax", files: []debtest.File{{Path: "/opt/a", Xattrs: map[string]string{"security.capability": "x"}}}}},
			err:     "/opt/a has extended attributes",
		},
		{
			summary: "a path with a line break",
			unpack:  []pkg{{name: "nl", files: []debtest.File{file("/opt/a\nb", "x")}}},
			err:     "line break",
		},
		{
			summary: "a folder that is not there",
			unpack:  []pkg{{name: "p", files: []debtest.File{file("/opt/none/a", "x")}, options: []debtest.Option{debtest.WithoutParents()}}},
			err:     "cannot unpack 00.deb: cannot write /opt/none/a: create /opt/none/a: file does not exist",
		},
		{
			summary: "triggers that make no sense",
			unpack:  []pkg{{name: "p", options: []debtest.Option{debtest.ControlFile("triggers", "interest a\ninvent b\n")}}},
			err:     "cannot unpack 00.deb: its control file triggers: line 2: it is neither the interest in a trigger nor its activation",
		},
		{
			summary: "conffiles that make no sense",
			unpack:  []pkg{{name: "p", options: []debtest.Option{debtest.Conffiles("/etc/a", "etc/b")}}},
			err:     `its control file conffiles, line 2: "etc/b" is not an absolute path`,
		},
		{
			summary: "a diversions file that ends too early",
			tree: func(t testing.TB, tr *tree) {
				tr.write(t, "var/lib/dpkg/diversions", "/a\n/b\n")
			},
			unpack: []pkg{{name: "p"}},
			err:    "/var/lib/dpkg/diversions:2: the last diversion has 2 lines of three",
			kind:   new(*dpkg.DatabaseError),
		},
		{
			summary: "a statoverride of a user that is not there",
			tree: func(t testing.TB, tr *tree) {
				tr.write(t, "var/lib/dpkg/statoverride", "root root 644 /a\nghost root 644 /b\n")
			},
			unpack: []pkg{{name: "p"}},
			err:    `/var/lib/dpkg/statoverride:2: there is no user "ghost" in the image; dpkg refuses that too`,
			kind:   new(*dpkg.DatabaseError),
		},
		{
			summary: "a list that ends too early",
			before:  []pkg{{name: "q"}},
			late:    func(t testing.TB, tr *tree) { tr.write(t, "var/lib/dpkg/info/q.list", "/.\n/usr") },
			unpack:  []pkg{{name: "p"}},
			err:     "/var/lib/dpkg/info/q.list:2: the file ends within this line: its newline is missing",
		},
		{
			summary: "a status file that makes no sense",
			late: func(t testing.TB, tr *tree) {
				tr.write(t, "var/lib/dpkg/status", tr.read(t, "var/lib/dpkg/status")+"Package: x\nnonsense\n")
			},
			unpack: []pkg{{name: "p"}},
			err:    `/var/lib/dpkg/status:10: "nonsense" is no field`,
			kind:   new(*dpkg.DatabaseError),
		},
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestUnpackAsDpkg(t *testing.T) {
	for _, s := range scenarios() {
		t.Run(s.summary, func(t *testing.T) { s.run(t) })
	}
}

// run plays a scenario twice.
func (s scenario) run(t *testing.T) {
	tr := newTree(t)
	if s.tree != nil {
		s.tree(t, tr)
	}
	if len(s.before) > 0 {
		if out, err := tr.dpkg(t, append([]string{"--install"}, debs(t, build(t, s.before))...)...); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	if s.removed != "" {
		if out, err := tr.dpkg(t, "--remove", s.removed); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	if s.late != nil {
		s.late(t, tr)
	}
	tr.freeze(t)
	packages := build(t, s.unpack)
	start := time.Now().Truncate(time.Second)
	out, dpkgErr := tr.dpkg(t, append([]string{"--no-triggers", "--auto-deconfigure", "--unpack"}, debs(t, packages)...)...)
	result, err := tr.unpack(t, packages, s.options)
	if s.err != "" {
		if dpkgErr == nil && !strings.Contains(string(out), "considering deconfiguration") {
			t.Errorf("dpkg has nothing against it:\n%s", out)
		}
		if err == nil || !strings.Contains(err.Error(), s.err) {
			t.Errorf("got error %v\nwant      %s", err, s.err)
		}
		if s.kind != nil && !errors.As(err, s.kind) {
			t.Errorf("%v is no %T", err, s.kind)
		}
		return
	}
	if dpkgErr != nil {
		t.Fatalf("dpkg: %v\n%s", dpkgErr, out)
	}
	if err != nil {
		t.Fatal(err)
	}
	compare(t, tr.dir, mount(t, tr.image, 0, "ro"), start, s.skip)
	calls, err := os.ReadFile(tr.log)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	if got := scriptCalls(result); got != string(calls) {
		t.Errorf("dpkg ran the scripts\n%swe note\n%s", calls, got)
	}
	for _, p := range result.Packages {
		if !slices.IsSorted(p.Files) {
			t.Errorf("%s: files in no order: %q", p.Name, p.Files)
		}
	}
}
