package bootpart_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hatchery/internal/bootpart"
)

// bookwormCmdline is the line of a fresh Raspberry Pi OS bookworm.
const bookwormCmdline = "console=serial0,115200 console=tty1 root=PARTUUID=0d9d2a8d-02 rootfstype=ext4 fsck.repair=yes rootwait quiet init=/usr/lib/raspberrypi-sys-mods/firstboot"

func parseCmdline(t testing.TB, s string) *bootpart.Cmdline {
	t.Helper()
	c, err := bootpart.ParseCmdline([]byte(s))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCmdlineUnchanged(t *testing.T) {
	for _, tt := range []struct {
		summary, in, out string
		words            int
	}{
		{"as shipped", bookwormCmdline + "\n", bookwormCmdline + "\n", 8},
		{"no newline", "a b", "a b\n", 2},
		{"Windows", "a b\r\n", "a b\n", 2},
		{"several newlines", "a\n\n\n", "a\n", 1},
		{"spaces kept", "  a \t b  \n", "  a \t b  \n", 2},
		{"quotes", `a="b c" "d e=f"` + "\n", `a="b c" "d e=f"` + "\n", 2},
		{"empty", "", "\n", 0},
		{"spaces only", "  \n", "  \n", 0},
	} {
		c := parseCmdline(t, tt.in)
		if got := string(c.Bytes()); got != tt.out {
			t.Errorf("%s: %q, want %q", tt.summary, got, tt.out)
		}
		if got := c.Words(); len(got) != tt.words {
			t.Errorf("%s: words %q, want %d", tt.summary, got, tt.words)
		}
	}
}

func TestCmdlineRefuses(t *testing.T) {
	for _, tt := range []struct{ summary, in, says string }{
		{"two lines", "a\nb\n", "2 lines"},
		{"a bare carriage return", "a\rb", "lines"},
		{"an open quote", `a b="c d`, "not closed"},
		{"a zero byte", "a\x00b", "zero byte at offset 1"},
		{"huge", strings.Repeat("a ", 40000), "80000 bytes"},
	} {
		_, err := bootpart.ParseCmdline([]byte(tt.in))
		if err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: error %v, want one with %q", tt.summary, err, tt.says)
		}
	}
}

func TestCmdlineGet(t *testing.T) {
	c := parseCmdline(t, bookwormCmdline+` name="two words" "whole thing=x y" cgroup-enable=memory empty= -- init=forinit quiet2`)
	for _, tt := range []struct {
		key, want string
		has       bool
	}{
		{"root", "PARTUUID=0d9d2a8d-02", true},
		{"console", "tty1", true},
		{"quiet", "", true},
		{"name", "two words", true},
		{"whole thing", "x y", true},
		{"cgroup_enable", "memory", true},
		{"empty", "", true},
		{"init", "/usr/lib/raspberrypi-sys-mods/firstboot", true},
		{"quiet2", "", false},
		{"rootwai", "", false},
	} {
		got, has := c.Get(tt.key)
		if got != tt.want || has != tt.has || c.Has(tt.key) != tt.has {
			t.Errorf("%s: %q, %v; want %q, %v", tt.key, got, has, tt.want, tt.has)
		}
	}
	if diff := cmp.Diff([]string{"serial0,115200", "tty1"}, c.Values("console")); diff != "" {
		t.Errorf("console (-want +got):\n%s", diff)
	}
}

func TestCmdlineEdits(t *testing.T) {
	ok := func(t *testing.T, errs ...error) {
		t.Helper()
		for _, err := range errs {
			if err != nil {
				t.Error(err)
			}
		}
	}
	for _, tt := range []struct {
		summary, in string
		edit        func(t *testing.T, c *bootpart.Cmdline)
		want        string
	}{
		{"what a build does", bookwormCmdline, func(t *testing.T, c *bootpart.Cmdline) {
			ok(t, c.Set("root", "PARTUUID=1a2b3c4d-02"))
			if n := c.RemoveKey("init"); n != 1 {
				t.Errorf("%d removed", n)
			}
			c.RemoveKey("quiet")
			ok(t, c.Add("cgroup_memory=1"), c.Add("cgroup_enable=memory"), c.Add("cgroup_enable=cpuset"), c.Add("cgroup_memory=1"))
		}, "console=serial0,115200 console=tty1 root=PARTUUID=1a2b3c4d-02 rootfstype=ext4 fsck.repair=yes rootwait cgroup_memory=1 cgroup_enable=memory cgroup_enable=cpuset"},
		{"set makes one of several", "console=a x console=b y console=c", func(t *testing.T, c *bootpart.Cmdline) {
			ok(t, c.Set("console", "d"))
		}, "console=d x y"},
		{"set what is new", "a", func(t *testing.T, c *bootpart.Cmdline) { ok(t, c.Set("b", "c")) }, "a b=c"},
		{"set with a space", "a", func(t *testing.T, c *bootpart.Cmdline) { ok(t, c.Set("b", "c d")) }, `a b="c d"`},
		{"set in place of a flag", "a ro b", func(t *testing.T, c *bootpart.Cmdline) { ok(t, c.Set("ro", "1")) }, "a ro=1 b"},
		{"set by the other spelling", "a-b=1", func(t *testing.T, c *bootpart.Cmdline) { ok(t, c.Set("a_b", "2")) }, "a_b=2"},
		{"before init's words", "a -- b", func(t *testing.T, c *bootpart.Cmdline) { ok(t, c.Add("c"), c.Set("b", "d")) }, "a c b=d -- b"},
		{"only init's words", "-- b", func(t *testing.T, c *bootpart.Cmdline) { ok(t, c.Add("c")) }, "c -- b"},
		{"init's words stay", "b -- b", func(t *testing.T, c *bootpart.Cmdline) { c.RemoveKey("b") }, "-- b"},
		{"first removed", "  a  b", func(t *testing.T, c *bootpart.Cmdline) { c.RemoveKey("a") }, "  b"},
		{"all removed", "a b", func(t *testing.T, c *bootpart.Cmdline) {
			if n := c.Remove(func(string) bool { return true }); n != 2 {
				t.Errorf("%d removed", n)
			}
		}, ""},
		{"removed by word", "a=1 a=2 b", func(t *testing.T, c *bootpart.Cmdline) {
			c.Remove(func(w string) bool { return w == "a=1" })
		}, "a=2 b"},
		{"into an empty one", "", func(t *testing.T, c *bootpart.Cmdline) { ok(t, c.Add("a"), c.Add("b")) }, "a b"},
	} {
		t.Run(tt.summary, func(t *testing.T) {
			c := parseCmdline(t, tt.in)
			tt.edit(t, c)
			if c.String() != tt.want {
				t.Errorf("%q\nwant %q", c, tt.want)
			}
		})
	}
}

func TestCmdlineRefusesEdits(t *testing.T) {
	c := parseCmdline(t, "a b")
	for _, tt := range []struct {
		summary string
		err     error
	}{
		{"two words", c.Add("c d")},
		{"no word", c.Add("")},
		{"the end mark", c.Add("--")},
		{"an open quote", c.Add(`c="d`)},
		{"a newline in quotes", c.Add("c=\"d\ne\"")},
		{"a key with a space", c.Set("c d", "e")},
		{"a key with an equals sign", c.Set("c=d", "e")},
		{"no key", c.Set("", "e")},
		{"a quote in the value", c.Set("c", `d"e`)},
		{"a newline in the value", c.Set("c", "d\ne")},
		{"a zero byte in the value", c.Set("c", "d\x00")},
	} {
		if tt.err == nil {
			t.Errorf("%s was taken", tt.summary)
		}
	}
	if c.String() != "a b" {
		t.Errorf("what failed changed the line to %q", c)
	}
}

func FuzzCmdline(f *testing.F) {
	for _, s := range []string{bookwormCmdline + "\n", `a="b c" "d=e f" g"h i"j`, "a -- b c", " \t a\r\n\n", `"`, "a\nb"} {
		f.Add(s, "root", "x y")
	}
	f.Fuzz(func(t *testing.T, in, key, value string) {
		c, err := bootpart.ParseCmdline([]byte(in))
		if err != nil {
			return
		}
		if want := strings.TrimRight(in, "\r\n"); c.String() != want {
			t.Fatalf("unchanged %q is written as %q", want, c)
		}
		before := c.Words()
		if err := c.Set(key, value); err != nil {
			if !slices.Equal(before, c.Words()) {
				t.Fatalf("a Set that failed made %q of %q", c.Words(), before)
			}
			return
		}
		again, err := bootpart.ParseCmdline(c.Bytes())
		if err != nil {
			t.Fatalf("%q cannot be read back: %v", c.Bytes(), err)
		}
		if got := again.Values(key); !slices.Equal(got, []string{value}) {
			t.Fatalf("set %q to %q in %q: read back %q", key, value, in, got)
		}
		again.RemoveKey(key)
		if last, err := bootpart.ParseCmdline(again.Bytes()); err != nil || last.Has(key) {
			t.Fatalf("%q removed from %q leaves %q (%v)", key, c, again, err)
		}
	})
}
