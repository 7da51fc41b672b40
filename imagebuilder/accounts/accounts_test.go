package accounts_test

import (
	"bytes"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"hatchery/imagebuilder/accounts"
	"hatchery/internal/testtool"
)

// epoch is day 19675.
var epoch = time.Unix(1700000000, 0)

// stock are the files of a Raspberry Pi OS image, shortened.
func stock() map[string]string {
	return map[string]string{
		accounts.Passwd: `root:x:0:0:root:/root:/bin/bash
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
systemd-timesync:x:997:997:systemd Time Synchronization:/:/usr/sbin/nologin
pi:x:1000:1000:,,,:/home/pi:/bin/bash
`,
		accounts.Shadow: `root:*:19600:0:99999:7:::
daemon:*:19600:0:99999:7:::
nobody:*:19600:0:99999:7:::
systemd-timesync:!*:19600::::::
pi:!:19600:0:99999:7:::
`,
		accounts.Group: `root:x:0:
adm:x:4:pi
sudo:x:27:pi,other
audio:x:29:
users:x:100:
gpio:x:986:
pi:x:1000:
`,
		accounts.Gshadow: `root:*::
adm:*::pi
sudo:*:pi:pi,other
audio:*::
users:*::
gpio:!::
pi:!::
`,
		accounts.Subuid: "pi:100000:65536\n",
		accounts.Subgid: "pi:100000:65536\n",
	}
}

func parse(t testing.TB, files map[string]string) *accounts.Database {
	t.Helper()
	data := map[string][]byte{}
	for path, text := range files {
		data[path] = []byte(text)
	}
	db, err := accounts.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// changes are the lines by which the files differ from before.
func changes(before map[string]string, db *accounts.Database) string {
	var b strings.Builder
	changed := db.Changed()
	for _, path := range slices.Sorted(maps.Keys(changed)) {
		old, now := strings.Split(before[path], "\n"), strings.Split(string(changed[path]), "\n")
		for _, line := range old {
			if !slices.Contains(now, line) {
				b.WriteString(filepath.Base(path) + " -" + line + "\n")
			}
		}
		for _, line := range now {
			if line != "" && !slices.Contains(old, line) {
				b.WriteString(filepath.Base(path) + " +" + line + "\n")
			}
		}
	}
	return b.String()
}

func TestEnsure(t *testing.T) {
	without := func(path string) func(map[string]string) {
		return func(files map[string]string) { delete(files, path) }
	}
	for _, test := range []struct {
		summary string
		edit    func(files map[string]string)
		wanted  accounts.Wanted
		result  accounts.Result
		want    string
		err     string
	}{
		{
			summary: "the stock user as it is, with a password",
			wanted:  accounts.Wanted{Name: "pi", PasswordHash: "$y$j9T$abc$def", Groups: []string{"sudo", "gpio", "none"}},
			result:  accounts.Result{User: accounts.User{Name: "pi", UID: 1000, GID: 1000, Home: "/home/pi", Shell: "/bin/bash"}},
			want: `group -gpio:x:986:
group +gpio:x:986:pi
gshadow -gpio:!::
gshadow +gpio:!::pi
shadow -pi:!:19600:0:99999:7:::
shadow +pi:$y$j9T$abc$def:19675:0:99999:7:::
`,
		},
		{
			summary: "the stock user renamed, wherever it is named",
			wanted:  accounts.Wanted{Name: "jack", Groups: []string{"users"}, RenameFrom: []string{"pi"}},
			result: accounts.Result{
				User:    accounts.User{Name: "jack", UID: 1000, GID: 1000, Home: "/home/jack", Shell: "/bin/bash"},
				OldName: "pi", OldHome: "/home/pi",
			},
			want: `group -adm:x:4:pi
group -sudo:x:27:pi,other
group -users:x:100:
group -pi:x:1000:
group +adm:x:4:jack
group +sudo:x:27:jack,other
group +users:x:100:jack
group +jack:x:1000:
gshadow -adm:*::pi
gshadow -sudo:*:pi:pi,other
gshadow -users:*::
gshadow -pi:!::
gshadow +adm:*::jack
gshadow +sudo:*:jack:jack,other
gshadow +users:*::jack
gshadow +jack:!::
passwd -pi:x:1000:1000:,,,:/home/pi:/bin/bash
passwd +jack:x:1000:1000:,,,:/home/jack:/bin/bash
shadow -pi:!:19600:0:99999:7:::
shadow +jack:*:19675:0:99999:7:::
subgid -pi:100000:65536
subgid +jack:100000:65536
subuid -pi:100000:65536
subuid +jack:100000:65536
`,
		},
		{
			summary: "user 1000 is somebody else's: a new user beside it",
			wanted:  accounts.Wanted{Name: "jack", RenameFrom: []string{"wizard"}},
			result:  accounts.Result{User: accounts.User{Name: "jack", UID: 1001, GID: 1001, Home: "/home/jack", Shell: "/bin/bash"}, Created: true},
			want: `group +jack:x:1001:
gshadow +jack:!::
passwd +jack:x:1001:1001::/home/jack:/bin/bash
shadow +jack:*:19675:0:99999:7:::
subgid +jack:165536:65536
subuid +jack:165536:65536
`,
		},
		{
			summary: "no such user, no gshadow, no subordinate ids",
			edit: func(files map[string]string) {
				maps.DeleteFunc(files, func(path, _ string) bool {
					return path != accounts.Passwd && path != accounts.Shadow && path != accounts.Group
				})
				files[accounts.Passwd] = "root:x:0:0:root:/root:/bin/bash"
				files[accounts.Shadow] = "root:*:19600:0:99999:7:::\n"
				files[accounts.Group] = "root:x:0:\n"
			},
			wanted: accounts.Wanted{Name: "pi"},
			result: accounts.Result{User: accounts.User{Name: "pi", UID: 1000, GID: 1000, Home: "/home/pi", Shell: "/bin/bash"}, Created: true},
			want:   "group +pi:x:1000:\npasswd +pi:x:1000:1000::/home/pi:/bin/bash\nshadow +pi:*:19675:0:99999:7:::\n",
		},
		{
			summary: "a number whose group is taken is passed over",
			edit: func(files map[string]string) {
				files[accounts.Group] += "taken:x:1001:\n"
			},
			wanted: accounts.Wanted{Name: "jack"},
			result: accounts.Result{User: accounts.User{Name: "jack", UID: 1002, GID: 1002, Home: "/home/jack", Shell: "/bin/bash"}, Created: true},
			want: `group +jack:x:1002:
gshadow +jack:!::
passwd +jack:x:1002:1002::/home/jack:/bin/bash
shadow +jack:*:19675:0:99999:7:::
subgid +jack:165536:65536
subuid +jack:165536:65536
`,
		},
		{
			summary: "a user without a line in shadow, whose shell refuses it",
			edit: func(files map[string]string) {
				files[accounts.Passwd] = strings.ReplaceAll(files[accounts.Passwd], "/home/pi:/bin/bash", "/home/pi:/usr/sbin/nologin")
				files[accounts.Shadow] = strings.ReplaceAll(files[accounts.Shadow], "pi:!:19600:0:99999:7:::\n", "")
			},
			wanted: accounts.Wanted{Name: "pi"},
			result: accounts.Result{User: accounts.User{Name: "pi", UID: 1000, GID: 1000, Home: "/home/pi", Shell: "/bin/bash"}},
			want: `passwd -pi:x:1000:1000:,,,:/home/pi:/usr/sbin/nologin
passwd +pi:x:1000:1000:,,,:/home/pi:/bin/bash
shadow +pi:*:19675:0:99999:7:::
`,
		},
		{
			summary: "what is not understood stays, and comes after the new line where it is NIS's",
			edit: func(files map[string]string) {
				files[accounts.Passwd] = "# comment\nbroken\n" + files[accounts.Passwd] + "+@admins::::::"
			},
			wanted: accounts.Wanted{Name: "jack"},
			result: accounts.Result{User: accounts.User{Name: "jack", UID: 1001, GID: 1001, Home: "/home/jack", Shell: "/bin/bash"}, Created: true},
			want: `group +jack:x:1001:
gshadow +jack:!::
passwd +jack:x:1001:1001::/home/jack:/bin/bash
shadow +jack:*:19675:0:99999:7:::
subgid +jack:165536:65536
subuid +jack:165536:65536
`,
		},
		{
			summary: "home elsewhere stays there",
			edit: func(files map[string]string) {
				files[accounts.Passwd] = strings.ReplaceAll(files[accounts.Passwd], "/home/pi", "/srv/pi")
				delete(files, accounts.Subuid)
				delete(files, accounts.Subgid)
				files[accounts.Group] = "pi:x:1000:\n"
				files[accounts.Gshadow] = "pi:!::\n"
			},
			wanted: accounts.Wanted{Name: "jack", RenameFrom: []string{"pi"}},
			result: accounts.Result{
				User:    accounts.User{Name: "jack", UID: 1000, GID: 1000, Home: "/srv/pi", Shell: "/bin/bash"},
				OldName: "pi", OldHome: "/srv/pi",
			},
			want: `group -pi:x:1000:
group +jack:x:1000:
gshadow -pi:!::
gshadow +jack:!::
passwd -pi:x:1000:1000:,,,:/srv/pi:/bin/bash
passwd +jack:x:1000:1000:,,,:/srv/pi:/bin/bash
shadow -pi:!:19600:0:99999:7:::
shadow +jack:*:19675:0:99999:7:::
`,
		},
		{summary: "root", wanted: accounts.Wanted{Name: "root"}, err: "account of the system"},
		{summary: "nobody", wanted: accounts.Wanted{Name: "nobody"}, err: "account of the system"},
		{summary: "the system's group", wanted: accounts.Wanted{Name: "audio"}, err: "system's group 29"},
		{summary: "bad name", wanted: accounts.Wanted{Name: "a:b"}, err: "no user name"},
		{summary: "hash of two fields", wanted: accounts.Wanted{Name: "pi", PasswordHash: "a:b"}, err: "password hash"},
		{summary: "hash of two lines", wanted: accounts.Wanted{Name: "pi", PasswordHash: "a\nroot::"}, err: "password hash"},
		{summary: "no group file", edit: without(accounts.Group), err: "no /etc/group"},
		{summary: "no shadow file: the hash would be in passwd", edit: without(accounts.Shadow), wanted: accounts.Wanted{Name: "pi", PasswordHash: "$y$j9T$abc$def"}, err: "no /etc/shadow"},
		{
			summary: "no number free",
			edit: func(files map[string]string) {
				var b strings.Builder
				for id := 1000; id < 60000; id++ {
					b.WriteString("u:x:" + strconv.Itoa(id) + ":1::/:/\n")
				}
				files[accounts.Passwd] += b.String()
			},
			wanted: accounts.Wanted{Name: "jack"}, err: "no number from 1000 to 59999 is free",
		},
	} {
		t.Run(test.summary, func(t *testing.T) {
			files := stock()
			if test.edit != nil {
				test.edit(files)
			}
			data := map[string][]byte{}
			for path, text := range files {
				data[path] = []byte(text)
			}
			db, err := accounts.Parse(data)
			var result accounts.Result
			if err == nil {
				test.wanted.Epoch = epoch
				result, err = db.Ensure(test.wanted)
			}
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Fatalf("error %v, want one with %q", err, test.err)
				}
				if db != nil && len(db.Changed()) != 0 {
					t.Errorf("changed in spite of the error:\n%s", changes(files, db))
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.result, result); diff != "" {
				t.Errorf("result (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.want, changes(files, db)); diff != "" {
				t.Errorf("changes (-want +got):\n%s", diff)
			}
			// Once more changes nothing.
			again := map[string]string{}
			for path := range files {
				data, _ := db.File(path)
				again[path] = string(data)
			}
			db = parse(t, again)
			if _, err := db.Ensure(test.wanted); err != nil {
				t.Fatal(err)
			}
			if got := changes(again, db); got != "" {
				t.Errorf("the second time changes:\n%s", got)
			}
		})
	}
}

func TestEnsureSystemGroup(t *testing.T) {
	taken := func(from, to int, format string) string {
		var b strings.Builder
		for id := from; id <= to; id++ {
			b.WriteString(strings.ReplaceAll(format, "ID", strconv.Itoa(id)))
		}
		return b.String()
	}
	for _, test := range []struct {
		summary, name string
		edit          func(files map[string]string)
		want          uint32
		changes, err  string
	}{
		{summary: "there is one", name: "gpio", want: 986},
		{summary: "the highest free number", name: "docker", want: 999, changes: "group +docker:x:999:\ngshadow +docker:!::\n"},
		{
			summary: "numbers of groups and of users are passed over", name: "docker",
			edit: func(files map[string]string) {
				files[accounts.Group] += "polkitd:x:999:\nrender:x:998:\n" // 997 is systemd-timesync's
			},
			want: 996, changes: "group +docker:x:996:\ngshadow +docker:!::\n",
		},
		{
			summary: "no gshadow", name: "docker", want: 999, changes: "group +docker:x:999:\n",
			edit: func(files map[string]string) { delete(files, accounts.Gshadow) },
		},
		{
			summary: "a line of gshadow's that was left", name: "docker", want: 999, changes: "group +docker:x:999:\n",
			edit: func(files map[string]string) { files[accounts.Gshadow] += "docker:!::jack\n" },
		},
		{
			summary: "the last number", name: "docker", want: 100, changes: "group +docker:x:100:\ngshadow +docker:!::\n",
			edit: func(files map[string]string) {
				files[accounts.Group] = strings.ReplaceAll(files[accounts.Group], "users:x:100:\n", "") + taken(101, 999, "gID:x:ID:\n")
			},
		},
		{
			summary: "no number", name: "docker", err: "no number from 100 to 999 is free for group docker",
			edit: func(files map[string]string) { files[accounts.Group] += taken(101, 999, "gID:x:ID:\n") },
		},
		{
			summary: "one without a number", name: "docker", err: "group docker has no valid number",
			edit: func(files map[string]string) { files[accounts.Group] += "docker:x::\n" },
		},
		{summary: "no name", name: "a:b", err: "no group name"},
	} {
		files := stock()
		if test.edit != nil {
			test.edit(files)
		}
		db := parse(t, files)
		got, err := db.EnsureSystemGroup(test.name)
		if test.err != "" {
			if err == nil || !strings.Contains(err.Error(), test.err) || len(db.Changed()) != 0 {
				t.Errorf("%s: error %v, want one with %q", test.summary, err, test.err)
			}
			continue
		}
		if err != nil || got != test.want {
			t.Errorf("%s: group %d, %v, want %d", test.summary, got, err, test.want)
		}
		if diff := cmp.Diff(test.changes, changes(files, db)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.summary, diff)
		}
		if again, err := db.EnsureSystemGroup(test.name); err != nil || again != got {
			t.Errorf("%s: the second time group %d, %v", test.summary, again, err)
		}
	}
}

// TestEpochZero: day 0 would have the password changed at the first log-in,
// which nobody can do by key.
func TestEpochZero(t *testing.T) {
	for _, at := range []int64{-1e6, 0, 1, 86399, 86400} {
		db := parse(t, stock())
		if _, err := db.Ensure(accounts.Wanted{Name: "pi", Epoch: time.Unix(at, 0)}); err != nil {
			t.Fatal(err)
		}
		if data, _ := db.File(accounts.Shadow); !strings.Contains(string(data), "\npi:*:1:0:99999:7:::\n") {
			t.Errorf("%d:\n%s", at, data)
		}
	}
}

// TestSystemAgrees has the system's own checker read the result.
func TestSystemAgrees(t *testing.T) {
	pwck, grpck := testtool.Need(t, "pwck"), testtool.Need(t, "grpck")
	for _, name := range []string{"pi", "jack"} {
		files := stock()
		files[accounts.Group] = strings.ReplaceAll(files[accounts.Group], ",other", "") + "daemon:x:1:\nnogroup:x:65534:\nsystemd-timesync:x:997:\n"
		files[accounts.Gshadow] = strings.ReplaceAll(files[accounts.Gshadow], ",other", "") + "daemon:*::\nnogroup:*::\nsystemd-timesync:!*::\n"
		db := parse(t, files)
		if _, err := db.Ensure(accounts.Wanted{Name: name, Groups: []string{"audio", "gpio"}, RenameFrom: []string{"pi"}, Epoch: epoch}); err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		path := func(name string) string { return filepath.Join(dir, filepath.Base(name)) }
		for _, file := range accounts.Files {
			data, _ := db.File(file)
			if err := os.WriteFile(path(file), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		// Home folders and shells are looked for on this machine; its
		// complaints about those are none.
		out, _ := exec.Command(pwck, "-r", "-q", path(accounts.Passwd), path(accounts.Shadow)).CombinedOutput()
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, "invalid") || strings.Contains(line, "no matching") || strings.Contains(line, "duplicate") {
				t.Errorf("pwck says: %s", line)
			}
		}
		out, _ = exec.Command(grpck, "-r", path(accounts.Group), path(accounts.Gshadow)).CombinedOutput()
		for line := range strings.Lines(string(out)) {
			// Members are looked for on this machine as well.
			if strings.Contains(line, "invalid") || strings.Contains(line, "no matching") || strings.Contains(line, "duplicate") {
				t.Errorf("grpck says: %s", line)
			}
		}
	}
}

// FuzzEnsure edits foreign account files: no line but the user's changes.
func FuzzEnsure(f *testing.F) {
	files := stock()
	f.Add([]byte(files[accounts.Passwd]), []byte(files[accounts.Shadow]), []byte(files[accounts.Group]), []byte(files[accounts.Gshadow]), []byte(files[accounts.Subuid]))
	f.Add([]byte("+::::::\n"), []byte(""), []byte("\n\n"), []byte(":::"), []byte("pi:99999999999:1"))
	f.Add([]byte("pi:x:1000:1000::/home/pi:/bin/sh\npi:x:1000:1000::/home/pi:/bin/sh"), []byte("pi:::::::"), []byte("pi:x:-1:\r\n"), []byte("-"), []byte("a:4294967295:4294967295\n"))
	f.Fuzz(func(t *testing.T, passwd, shadow, group, gshadow, subuid []byte) {
		db, err := accounts.Parse(map[string][]byte{
			accounts.Passwd: passwd, accounts.Shadow: shadow, accounts.Group: group, accounts.Gshadow: gshadow, accounts.Subuid: subuid,
		})
		if err != nil {
			return
		}
		for path, data := range map[string][]byte{accounts.Passwd: passwd, accounts.Shadow: shadow, accounts.Group: group} {
			if got, _ := db.File(path); !bytes.Equal(got, data) {
				t.Fatalf("%s: %q became %q with nothing done", path, data, got)
			}
		}
		result, err := db.Ensure(accounts.Wanted{Name: "jack", Groups: []string{"sudo"}, RenameFrom: []string{"pi"}, Epoch: epoch})
		if err != nil {
			if len(db.Changed()) != 0 {
				t.Fatalf("changed in spite of %v", err)
			}
			return
		}
		if result.User.Name != "jack" || result.User.UID < 1000 {
			t.Fatalf("result %+v", result)
		}
		if gid, err := db.EnsureSystemGroup("docker"); err == nil {
			if again, ok := db.Group("docker"); !ok || again != gid {
				t.Fatalf("group %d is %d, %v", gid, again, ok)
			}
		}
		before, after := strings.Split(string(passwd), "\n"), db.Changed()[accounts.Passwd]
		for _, line := range before {
			if !strings.HasPrefix(line, "pi:") && !strings.HasPrefix(line, "jack:") && !bytes.Contains(append([]byte("\n"), after...), []byte("\n"+line)) && after != nil {
				t.Fatalf("line %q is gone", line)
			}
		}
	})
}
