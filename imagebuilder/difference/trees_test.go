package difference_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"hatchery/imagebuilder/difference"
)

// report is a report without its head.
func report(t testing.TB, d *difference.Difference, o difference.TextOptions) string {
	t.Helper()
	_, body, _ := strings.Cut(text(t, d, o), "\n+++ the second image\n")
	return strings.TrimSpace(body) + "\n"
}

func TestFiles(t *testing.T) {
	for _, c := range []struct {
		summary, was, is, want string
		o                      difference.Options
	}{
		{
			summary: "the same",
			was:     `-644 0:0 /etc/hostname "a"`,
			is:      `-644 0:0 /etc/hostname "a"`,
			want:    "No differences.\n",
		},
		{
			summary: "only times differ, of files and folders, and a symlink's mode",
			was:     "d755 0:0 /etc\n-644 0:0 /etc/hostname a\nl777 0:0 /etc/link x",
			is:      "d755 0:0 /etc time=9\n-644 0:0 /etc/hostname a time=9\nl700 0:0 /etc/link x time=9",
			want:    "No differences, but for the times of 1 file.\n",
		},
		{
			summary: "a text",
			was:     `-644 0:0 /motd "one\ntwo\nthree\n"`,
			is:      `-644 0:0 /motd "one\n2\nthree\n"`,
			want: `Files
  ~ -rw-r--r-- 0:0            12 B  /motd  (content, -2 B)

--- /motd
+++ /motd
@@ -1,3 +1,3 @@
 one
-two
+2
 three

1 file changed
`,
		},
		{
			summary: "a binary file, of the same size",
			was:     `-755 0:0 /x "a\x00b"`,
			is:      `-755 0:0 /x "a\x00c"`,
			want: `Files
  ~ -rwxr-xr-x 0:0             3 B  /x  (content, of the same size)

1 file changed
`,
		},
		{
			summary: "modes and owners, and nothing else",
			was:     "-644 0:0 /a x\n-755 0:0 /b y\nd755 0:0 /c\nd755 0:0 /d\n-755 0:0 /e z",
			is:      "-600 0:0 /a x\n-4755 0:0 /b y\nd1777 0:0 /c\nd2755 1000:44 /d\n-6644 0:0 /e z",
			want: `Files
  ~ -rw------- 0:0                  /a  (private; mode -rw-r--r-- → -rw-------)
  ~ -rwsr-xr-x 0:0             1 B  /b  (mode -rwxr-xr-x → -rwsr-xr-x)
  ~ drwxrwxrwt 0:0                  /c  (mode drwxr-xr-x → drwxrwxrwt)
  ~ drwxr-sr-x 1000:44              /d  (mode drwxr-xr-x → drwxr-sr-x; owner 0:0 → 1000:44)
  ~ -rwSr-Sr-- 0:0             1 B  /e  (mode -rwxr-xr-x → -rwSr-Sr--)

3 files, 2 folders changed
`,
		},
		{
			summary: "other types, targets and devices",
			was:     "-644 0:0 /a x\nl777 0:0 /b ../x\nc666 0:0 /c dev=1,3\nd755 0:0 /d\n-644 0:0 /d/in x\np644 0:0 /e",
			is:      "l777 0:0 /a x\nl777 0:0 /b ../y\nc666 0:0 /c dev=1,5\n-644 0:0 /d x\nb660 0:6 /f dev=179,0\ns755 0:0 /g",
			want: `Files
  ~ lrwxrwxrwx 0:0                  /a  (file → symlink; mode -rw-r--r-- → lrwxrwxrwx)
  ~ lrwxrwxrwx 0:0                  /b  (target ../x → ../y)
  ~ crw-rw-rw- 0:0            1, 5  /c  (device 1, 3 → 1, 5)
  ~ -rw-r--r-- 0:0             1 B  /d  (folder → file; mode drwxr-xr-x → -rw-r--r--)
  - -rw-r--r-- 0:0             1 B  /d/in
  - prw-r--r-- 0:0                  /e
  + brw-rw---- 0:6          179, 0  /f
  + srwxr-xr-x 0:0                  /g

--- /d/in
+++ /dev/null
@@ -1,1 +0,0 @@
-x
\ No newline at end of file

2 other added; 1 file (1 B), 1 other removed; 1 file, 3 other changed
`,
		},
		{
			summary: "extended attributes",
			was: `-755 0:0 /ping "\x7f" "x:security.capability=\x01\x00" x:user.note=old x:user.gone=x
-755 0:0 /same "\x7f" "x:user.a=\x00"`,
			is: `-755 0:0 /ping "\x7f" "x:security.capability=\x02\x00" x:user.note=new "x:user.\x1b=\x1b"
-755 0:0 /same "\x7f" "x:user.a=\x00"`,
			want: `Files
  ~ -rwxr-xr-x 0:0             1 B  /ping  (security.capability=0x0100 → 0x0200, -user.gone=x, user.note=old → new, +"user.\x1b"=0x1b)

1 file changed
`,
		},
		{
			summary: "files sort as a walk meets them",
			was:     `-644 0:0 /a.b x`,
			is:      "-644 0:0 /a.b y\n-644 0:0 /a/z new\n-644 0:0 /a!/z new2\n-644 0:0 /A new3",
			o:       difference.Options{DiffFile: -1},
			want: `Files
  + -rw-r--r-- 0:0             4 B  /A
  + drwxr-xr-x 0:0                  /a
  + -rw-r--r-- 0:0             3 B  /a/z
  + drwxr-xr-x 0:0                  /a!
  + -rw-r--r-- 0:0             4 B  /a!/z
  ~ -rw-r--r-- 0:0             1 B  /a.b  (content, of the same size)

3 files (11 B), 2 folders added; 1 file changed
`,
		},
		{
			summary: "what is private in one image is private in both",
			was:     "-600 0:0 /a secret-1\nd755 0:0 /d\n-644 0:0 /d/b secret-2\nl777 0:0 /d/l secret-3\n-644 0:0 /n/c secret-4",
			is:      "-644 0:0 /a public-1\nd750 0:0 /d\n-644 0:0 /d/b public-2\nl777 0:0 /d/l secret-5\n-644 0:0 /n/c public-4",
			o:       difference.Options{Private: func(p string) bool { return p == "/n" }},
			want: `Files
  ~ -rw-r--r-- 0:0                  /a  (private; mode -rw------- → -rw-r--r--; content)
  ~ drwxr-x--- 0:0                  /d  (mode drwxr-xr-x → drwxr-x---)
  ~ -rw-r--r-- 0:0                  /d/b  (private; content)
  ~ lrwxrwxrwx 0:0                  /d/l  (private; target)
  ~ -rw-r--r-- 0:0                  /n/c  (private; content)

3 files, 1 folder, 1 other changed
`,
		},
		{
			summary: "a new hard link, one that is none any more, and one to another file",
			was:     "-755 0:0 /a x inode=5\n-755 0:0 /m y inode=6 links=2\n-755 0:0 /n y inode=6 links=2\n-755 0:0 /p z inode=7 links=2\n-755 0:0 /q z inode=7 links=2\n-755 0:0 /r z inode=8",
			is:      "-755 0:0 /a x inode=5 links=2\n-755 0:0 /b x inode=5 links=2\n-755 0:0 /m y inode=6\n-755 0:0 /n y inode=9 time=3\n-755 0:0 /p z inode=7\n-755 0:0 /q z inode=8 links=2\n-755 0:0 /r z inode=8 links=2",
			o:       difference.Options{DiffFile: -1},
			want: `Files
  + -rwxr-xr-x 0:0             1 B  /b  (hard link to /a)
  ~ -rwxr-xr-x 0:0             1 B  /n  (no hard link to /m any more)
  ~ -rwxr-xr-x 0:0             1 B  /q  (hard link to /p → /r)
  ~ -rwxr-xr-x 0:0             1 B  /r  (hard link to /q)

1 file (1 B) added; 3 files changed
`,
		},
		{
			summary: "files that cannot be read or are damaged",
			was:     `-644 0:0 /a x` + "\n" + `-644 0:0 /b x "problem=wrong checksum"`,
			is:      "-644 0:0 /a x\n-644 0:0 /b yy\nd755 0:0 \"/\\x1b[0m\" \"problem=it is\\nhostile\"",
			want: `Files
  + drwxr-xr-x 0:0                  "/\x1b[0m"
  ~ -rw-r--r-- 0:0             2 B  /b  (content, +1 B; unread)

Not compared
  ! the second image: /^[[0m: it is hostile
  ! the first image: /b: wrong checksum
  ! /b: cannot read it in the first image: wrong checksum

1 folder added; 1 file changed
`,
		},
		{
			summary: "control characters",
			was:     `-644 0:0 "/a\x1b[2Jb" x`,
			is:      `-644 0:0 "/c d\n" "\x1b]0;title\x07\r\nsoft\u00adhyphen \u202eback\xff\ttab é\u0085\x7f\n"` + "\n" + `l777 0:0 /l "\x1b[31m"`,
			want: `Files
  - -rw-r--r-- 0:0             1 B  "/a\x1b[2Jb"
  + -rw-r--r-- 0:0            44 B  "/c d\n"
  + lrwxrwxrwx 0:0                  /l → "\x1b[31m"

--- "/a\x1b[2Jb"
+++ /dev/null
@@ -1,1 +0,0 @@
-x
\ No newline at end of file

--- /dev/null
+++ "/c d\n"
@@ -0,0 +1,2 @@
+^[]0;title^G^M
+soft<U+00AD>hyphen <U+202E>back\xff	tab é<U+0085>^?

1 file (44 B), 1 other added; 1 file (1 B) removed
`,
		},
	} {
		t.Run(c.summary, func(t *testing.T) {
			d := compare(t, fake(t, c.was), fake(t, c.is), c.o)
			if diff := cmp.Diff(c.want, report(t, d, difference.TextOptions{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestRenames(t *testing.T) {
	long := strings.Repeat("long enough ", 4)
	for _, c := range []struct{ summary, was, is, want string }{
		{
			summary: "a home that grew, in the same inode",
			was:     "d755 1000:1000 /home/pi inode=9\n-644 1000:1000 /home/pi/.bashrc one\n-644 1000:1000 /home/pi/.profile two",
			is:      "d700 1000:1000 /home/anna inode=9\n-644 1000:1000 /home/anna/.bashrc one\n-644 1000:1000 /home/anna/.profile two\nd700 1000:1000 /home/anna/.ssh",
			want:    "= /home/pi → /home/anna mode\n= /home/pi/.bashrc → /home/anna/.bashrc\n= /home/pi/.profile → /home/anna/.profile\n+ /home/anna/.ssh\n",
		},
		{
			summary: "a folder by its files, though one changed, one went and one came",
			was:     "-644 0:0 /opt/old/a aaa\n-644 0:0 /opt/old/b bbb\n-644 0:0 /opt/old/sub/c ccc\n-644 0:0 /opt/old/d ddd\n-644 0:0 /opt/old/gone ggg",
			is:      "-644 0:0 /opt/new/a aaa\n-644 0:0 /opt/new/b bbb\n-644 0:0 /opt/new/sub/c ccc\n-600 0:0 /opt/keep x\n-644 0:0 /opt/new/d DDDD\n-644 0:0 /opt/new/fresh fff",
			want: `+ /opt/keep
= /opt/old → /opt/new
= /opt/old/a → /opt/new/a
= /opt/old/b → /opt/new/b
= /opt/old/d → /opt/new/d content
+ /opt/new/fresh
= /opt/old/sub → /opt/new/sub
= /opt/old/sub/c → /opt/new/sub/c
- /opt/old/gone
`,
		},
		{
			summary: "not a folder that merely shares a file with a larger one",
			was:     "-644 0:0 /a/LICENSE licence",
			is:      "-644 0:0 /b/LICENSE licence\n-644 0:0 /b/x 1\n-644 0:0 /b/y 2\n-644 0:0 /b/z 3",
			want: `- /a
+ /b
= /a/LICENSE → /b/LICENSE
+ /b/x
+ /b/y
+ /b/z
`,
		},
		{
			summary: "not an inode that another folder got",
			was:     "d755 0:0 /a inode=9\n-644 0:0 /a/one 1\n-644 0:0 /a/two 2",
			is:      "d755 0:0 /b inode=9\n-644 0:0 /b/three 3\n-644 0:0 /b/four 4",
			want:    "- /a\n- /a/one\n- /a/two\n+ /b\n+ /b/four\n+ /b/three\n",
		},
		{
			summary: "nor one where less than half stayed",
			was:     "d755 0:0 /a inode=9\n-644 0:0 /a/one 1\n-644 0:0 /a/two 2\n-644 0:0 /a/three 3",
			is:      "d755 0:0 /b inode=9\n-644 0:0 /b/one 1\n-644 0:0 /b/four 4\n-644 0:0 /b/five 5",
			want:    "- /a\n- /a/three\n- /a/two\n+ /b\n+ /b/five\n+ /b/four\n= /a/one → /b/one\n",
		},
		{
			summary: "an empty folder, by its inode and name",
			was:     "d755 0:0 /a/empty inode=9\nd755 0:0 /gone inode=8",
			is:      "d755 0:0 /b/empty inode=9 time=5\nd755 0:0 /come inode=8 time=5",
			want:    "- /a\n+ /b\n= /a/empty → /b/empty\n+ /come\n- /gone\n",
		},
		{
			summary: "a file and a symlink that moved",
			was:     "-644 0:0 /etc/rc/S01x \"" + long + "\"\nl777 0:0 /etc/rc/S02y ../y inode=7",
			is:      "-600 0:5 /etc/K01x \"" + long + "\"\nl777 0:0 /etc/rc/K02y ../y inode=7",
			want:    "+ /etc/K01x\n= /etc/rc/S02y → /etc/rc/K02y\n- /etc/rc/S01x\n",
		},
		{
			summary: "a file under another name, with another owner",
			was:     "-644 0:0 /etc/a \"" + long + "\"",
			is:      "-644 0:5 /usr/b \"" + long + "\"",
			want:    "- /etc\n+ /usr\n= /etc/a → /usr/b owner\n",
		},
		{
			summary: "no guesses: short contents, several alike",
			was:     "-644 0:0 /a/x 1\n-644 0:0 /a/y \"" + long + "\"\n-644 0:0 /a/z \"" + long + "\"\n-644 0:0 /a/empty \"\"",
			is:      "-644 0:0 /b/w 1\n-644 0:0 /b/v \"" + long + "\"\n-644 0:0 /b/u \"" + long + "\"\n-644 0:0 /b/void \"\"",
			want:    "- /a\n- /a/empty\n- /a/x\n- /a/y\n- /a/z\n+ /b\n+ /b/u\n+ /b/v\n+ /b/void\n+ /b/w\n",
		},
		{
			summary: "a private file does not tell that it is a public one",
			was:     "-600 0:0 /a \"" + long + "\"",
			is:      "-644 0:0 /b \"" + long + "\"",
			want:    "- /a\n+ /b\n",
		},
		{
			summary: "folders in a folder that was renamed and moved within",
			was:     "-644 0:0 /a/one/x xxx\n-644 0:0 /a/two/y yyy",
			is:      "-644 0:0 /b/one/x xxx\n-644 0:0 /b/2/y yyy",
			want:    "= /a → /b\n= /a/two → /b/2\n= /a/two/y → /b/2/y\n= /a/one → /b/one\n= /a/one/x → /b/one/x\n",
		},
	} {
		t.Run(c.summary, func(t *testing.T) {
			d := compare(t, fake(t, c.was), fake(t, c.is), difference.Options{})
			var got strings.Builder
			for _, f := range d.Files {
				switch f.Change {
				case difference.Renamed:
					fmt.Fprintln(&got, strings.Join(append([]string{"=", string(f.RenamedFrom), "→", string(f.Path)}, f.Differs...), " "))
					if c := f.Diff != ""; c != strings.Contains(strings.Join(f.Differs, " "), "content") {
						t.Errorf("%s: diff %q", f.Path, f.Diff)
					}
				default:
					fmt.Fprintln(&got, map[string]string{difference.Added: "+", difference.Removed: "-", difference.Changed: "~"}[f.Change], f.Path)
				}
			}
			if diff := cmp.Diff(c.want, got.String()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestBootFiles(t *testing.T) {
	for _, c := range []struct{ summary, was, is, want string }{
		{
			summary: "words that are the same but for their order",
			was:     `-755 0:0 /boot/cmdline.txt "a b c\n"`, is: `-755 0:0 /boot/cmdline.txt "c b a\n"`,
			want: "Kernel command line (/boot/cmdline.txt)\n  ~ the same words in another order\n",
		},
		{
			summary: "repeated keys, quotes, dashes and init's own words",
			was:     `-755 0:0 /boot/cmdline.txt "console=tty1 console=serial0 x-y=1 q=\"a b\" -- q=2 gone\n"`,
			is:      `-755 0:0 /boot/cmdline.txt "console=tty1 console=ttyGS0 x_y=2 q=c -- q=3\n"`,
			want: `Kernel command line (/boot/cmdline.txt)
  - console=serial0
  - q="a b"
  - q=2
  - gone
  + console=ttyGS0
  + q=c
  + q=3
  ~ x_y: 1 → 2
`,
		},
		{
			summary: "several lines",
			was:     `-755 0:0 /boot/cmdline.txt "a\n"`, is: `-755 0:0 /boot/cmdline.txt "a\nb\n"`,
			want: "Not compared\n  ! /boot/cmdline.txt is not compared by words: cmdline.txt has 2 lines: everything must stand on one\n",
		},
		{
			summary: "sections, in any place and case, and comments",
			was:     `-755 0:0 /boot/config.txt "a=1\n#b=2\n[pi4]\nc=3\n[all]\nd=4\n[EDID=x]\n[pi3]\ne=5\n"`,
			is:      `-755 0:0 /boot/config.txt "d=4\n[Pi4]\nc=4\n[cm4]\nf=6\n[all]\na=1\nb=2\n[EDID=x]\n[pi3]\ne=6\n"`,
			want: `config.txt
  [all]
  + b=2
  [pi4]
  - c=3
  + c=4
  under several filters at once
  - e=5
  + e=6
  [cm4]
  + f=6
`,
		},
		{
			summary: "private boot files",
			was:     `-750 0:0 /boot/cmdline.txt "a\n"` + "\n" + `-750 0:0 /boot/config.txt "a\n"`,
			is:      `-755 0:0 /boot/cmdline.txt "b\n"` + "\n" + `-755 0:0 /boot/config.txt "b\n"`,
		},
	} {
		t.Run(c.summary, func(t *testing.T) {
			d := compare(t, fake(t, c.was), fake(t, c.is), difference.Options{BootPath: "/boot"})
			// Of the report, what stands beside the list of files.
			var got []string
			for _, part := range strings.Split(report(t, d, difference.TextOptions{NoDiffs: true}), "\n\n") {
				if !strings.HasPrefix(part, "Files\n") && !strings.HasSuffix(part, " changed\n") {
					got = append(got, part+"\n")
				}
			}
			if diff := cmp.Diff(c.want, strings.Join(got, "")); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestPackages(t *testing.T) {
	paragraph := func(name, status, arch, version string) string {
		return fmt.Sprintf("Package: %s\nStatus: %s\nArchitecture: %s\nVersion: %s\n\n", name, status, arch, version)
	}
	const ok = "install ok installed"
	for _, c := range []struct{ summary, was, is, want string }{
		{
			summary: "every kind of change",
			was: paragraph("down", ok, "armel", "1:2.0") + paragraph("left", ok, "all", "1") + paragraph("hold", ok, "all", "1") +
				paragraph("moved", ok, "all", "1") + paragraph("multi", ok, "armhf", "1") + paragraph("multi", ok, "arm64", "1") +
				paragraph("never", "unknown ok not-installed", "all", "1") + paragraph("purged", ok, "all", "1") + paragraph("rest", "deinstall ok config-files", "all", "3") +
				paragraph("same", ok, "all", "1") + paragraph("up", ok, "armel", "1.9"),
			is: paragraph("up", ok, "armel", "1.10") + paragraph("same", ok, "all", "1") + paragraph("down", ok, "armel", "3") +
				paragraph("hold", "hold ok installed", "all", "1") + paragraph("left", "deinstall ok config-files", "all", "1") +
				paragraph("moved", ok, "armhf", "1") + paragraph("multi", ok, "armhf", "2") + paragraph("multi", ok, "i386", "1") + paragraph("new", "install ok unpacked", "armel", "0~rc1"),
			want: `Packages
  ~ down 1:2.0 → 3 armel  (older)
  ~ hold 1 all → 1 all (to be hold)
  - left 1 all, its configuration is left
  ~ moved 1 all → 1 armhf
  ~ multi 1 → 2 armhf
  ~ multi 1 arm64 → 1 i386
  + new 0~rc1 armel (unpacked)
  - purged 1 all
  - rest 3 all (config-files, to be deinstall)
  ~ up 1.9 → 1.10 armel

Files
  ~ -rw-r--r-- 0:0           676 B  /var/lib/dpkg/status  (content, -154 B; see Packages)

1 file changed
`,
		},
		{
			summary: "a status file that is damaged is told as text",
			was:     paragraph("a", ok, "all", "1"), is: "nonsense\n",
			want: `Files
  ~ -rw-r--r-- 0:0             9 B  /var/lib/dpkg/status  (content, -61 B)

Not compared
  ! the second image: /var/lib/dpkg/status is not compared by packages: line 1: "nonsense" is no field

--- /var/lib/dpkg/status
+++ /var/lib/dpkg/status
@@ -1,5 +1,1 @@
-Package: a
-Status: install ok installed
-Architecture: all
-Version: 1
-
+nonsense

1 file changed
`,
		},
	} {
		t.Run(c.summary, func(t *testing.T) {
			file := func(content string) *fakeTree {
				return fake(t, fmt.Sprintf("-644 0:0 /var/lib/dpkg/status %q", content))
			}
			d := compare(t, file(c.was), file(c.is), difference.Options{})
			if diff := cmp.Diff(c.want, report(t, d, difference.TextOptions{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestEveryFileOnce: equal files are read once, known ones and those of
// another size or no content not at all to be compared.
func TestEveryFileOnce(t *testing.T) {
	const lines = "-644 0:0 /empty \"\"\n-644 0:0 /equal x\n-644 0:0 /known y\n-644 0:0 /l1 z inode=5 links=2\n-644 0:0 /l2 z inode=5 links=2\n"
	was, is := fake(t, lines+"-644 0:0 /longer x"), fake(t, lines+"-644 0:0 /longer xx\n-644 0:0 /new n")
	d := compare(t, was, is, difference.Options{Same: func(p string) bool { return p == "/known" }})
	if len(d.Files) != 2 {
		t.Errorf("%d files differ", len(d.Files))
	}
	got := fmt.Sprint(was.opened, is.opened)
	if want := "map[/equal:1 /l1:1 /longer:1] map[/equal:1 /l1:1 /longer:1 /new:1]"; got != want {
		t.Errorf("opened %s, want %s", got, want)
	}
}

// TestLargeFiles: contents of more than a piece, that end at, before and behind
// the end of one, and differ early, late or in the last byte.
func TestLargeFiles(t *testing.T) {
	const piece = 256 << 10
	for _, size := range []int{piece - 1, piece, piece + 1, 3 * piece, 5*piece + 7} {
		for _, at := range []int{-1, 0, piece - 1, size - 1} {
			at = min(at, size-1)
			was, is := fake(t, "-644 0:0 /a x\n-644 0:0 /b x\n-644 0:0 /z same"), fake(t, "-644 0:0 /a x\n-644 0:0 /b x\n-644 0:0 /z same")
			content := []byte(strings.Repeat("\x00some content", size/13+1)[:size])
			for _, f := range []*fakeTree{was, is} {
				f.content["/a"] = string(content)
				f.content["/b"] = string(content)
				for i := range f.nodes {
					if p := f.nodes[i].Path; p == "/a" || p == "/b" {
						f.nodes[i].Size = int64(size)
					}
				}
				if at >= 0 {
					content[at] ^= 0xff
				}
			}
			want := 0
			if at >= 0 {
				want = 2
			}
			if d := compare(t, was, is, difference.Options{}); len(d.Files) != want || want > 0 && d.Files[0].Was.Digest == d.Files[0].Is.Digest {
				t.Errorf("%d bytes, different at %d: %d files", size, at, len(d.Files))
			}
		}
	}
}

func TestErrors(t *testing.T) {
	broken := errors.New("a broken disk")
	_, err := difference.CompareTrees(context.Background(), fake(t, ""), &fakeTree{walkErr: broken}, difference.Options{IsName: "p1.img"})
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), "p1.img") {
		t.Errorf("got %v", err)
	}

	disordered := fake(t, "-644 0:0 /a x\n-644 0:0 /b x")
	disordered.nodes[1], disordered.nodes[2] = disordered.nodes[2], disordered.nodes[1]
	_, err = difference.CompareTrees(context.Background(), disordered, fake(t, ""), difference.Options{})
	if !errors.Is(err, difference.ErrDisorder) {
		t.Errorf("got %v", err)
	}

	was, is := fake(t, "-644 0:0 /a x\n-644 0:0 /b x"), fake(t, "-644 0:0 /a x\n-644 0:0 /b y\n-644 0:0 /c z")
	was.readErr["/a"], is.readErr["/c"] = broken, broken
	d := compare(t, was, is, difference.Options{})
	const want = `Files
  ~ -rw-r--r-- 0:0             1 B  /b  (content, of the same size)
  + -rw-r--r-- 0:0             1 B  /c  (unread)

Not compared
  ! /a: cannot read it in the first image: a broken disk
  ! /c: cannot read it in the second image: a broken disk

1 file (1 B) added; 1 file changed
`
	if diff := cmp.Diff(want, report(t, d, difference.TextOptions{NoDiffs: true})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestCancelled: a comparison of contents without end ends with its context.
func TestCancelled(t *testing.T) {
	const endless = "-644 0:0 /hole x size=1000000000000000"
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(20*time.Millisecond, cancel)
	_, err := difference.CompareTrees(ctx, fake(t, endless), fake(t, endless), difference.Options{ReadLimit: 1 << 60})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestBounds(t *testing.T) {
	many := func(n int, content string) *fakeTree {
		var sb strings.Builder
		for i := range n {
			fmt.Fprintf(&sb, "-644 0:0 /d/%06d %q\n", i, content)
		}
		return fake(t, sb.String())
	}
	t.Run("more files than are listed", func(t *testing.T) {
		d := compare(t, fake(t, "d755 0:0 /d"), many(3000, "x"), difference.Options{Listed: 1000})
		if len(d.Files) != 1000 || d.Unlisted != 2000 || d.Totals.Added.Files != 3000 || d.Totals.Added.Bytes != 3000 {
			t.Errorf("%d files, %d unlisted, %+v", len(d.Files), d.Unlisted, d.Totals.Added)
		}
		if got := report(t, d, difference.TextOptions{}); !strings.Contains(got, "+ 1000 files in /d  (1000 B)") || !strings.Contains(got, "2000 of them not listed here") {
			t.Error(got)
		}
	})
	t.Run("more files with several names than are remembered", func(t *testing.T) {
		var sb strings.Builder
		for i := range 30 {
			fmt.Fprintf(&sb, "-644 0:0 /%s%02d x inode=3 links=30\n", strings.Repeat("n", 3000), i)
		}
		if d := compare(t, fake(t, sb.String()), fake(t, sb.String()), difference.Options{}); !d.Empty() || len(d.Problems) != 0 {
			t.Errorf("%+v", d)
		}
	})
	t.Run("more diffs than are kept", func(t *testing.T) {
		d := compare(t, many(10, "aaaa"), many(10, "bbbb"), difference.Options{DiffTotal: 150})
		got := map[string]int{}
		for _, f := range d.Files {
			got[fmt.Sprintf("%t %s", f.Diff != "", f.NoDiff)]++
		}
		if diff := cmp.Diff(map[string]int{"true ": 1, "false too-much": 9}, got); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("a file that is too large for a diff", func(t *testing.T) {
		d := compare(t, many(1, "aaaa"), many(1, "aaaaa"), difference.Options{DiffFile: 4})
		if f := d.Files[0]; f.NoDiff != "large" || f.Diff != "" || f.Is.Digest == "" {
			t.Errorf("%+v", f)
		}
	})
	t.Run("files that are mostly holes", func(t *testing.T) {
		const lines = "-644 0:0 /hole x size=%d\n-644 0:0 /small %s\n-644 0:0 /zz/hole x size=1000000000000"
		d := compare(t, fake(t, fmt.Sprintf(lines, 3<<20, "a")), fake(t, fmt.Sprintf(lines, 3<<20, "b")), difference.Options{ReadLimit: 4 << 20})
		if len(d.Files) != 1 || len(d.Problems) != 1 || !strings.Contains(string(d.Problems[0]), "/zz/hole: ") {
			t.Errorf("%d files, %q", len(d.Files), d.Problems)
		}
	})
	t.Run("folders in folders", func(t *testing.T) {
		deep := strings.Repeat("/0123456789", 500)
		d := compare(t, fake(t, ""), fake(t, "-644 0:0 "+deep+"/x y"), difference.Options{})
		if n := len(d.Files); n != 372 {
			t.Errorf("%d files", n)
		}
		if len(d.Problems) != 1 || !strings.Contains(string(d.Problems[0]), "longer than 4096 bytes") {
			t.Errorf("%q", d.Problems)
		}
	})
	t.Run("more problems than anybody reads", func(t *testing.T) {
		was, is := many(1500, "x"), many(1500, "x")
		for i := range 1500 {
			was.readErr[fmt.Sprintf("/d/%06d", i)] = errors.New("damaged")
		}
		d := compare(t, was, is, difference.Options{})
		if n := len(d.Problems); n != 1001 || d.Problems[1000] != "and 500 problems more" {
			t.Errorf("%d problems, %q", n, d.Problems[n-1])
		}
	})
}
