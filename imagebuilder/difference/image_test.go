package difference_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hatchery/imagebuilder/difference"
	"hatchery/imagebuilder/diskimage"
	"hatchery/internal/ext4/ext4test"
	"hatchery/internal/imagetest"
	"hatchery/internal/testtool"
)

func compareImages(t testing.TB, was, is string, o difference.Options) *difference.Difference {
	t.Helper()
	d, err := difference.Compare(context.Background(), open(t, was), open(t, is), o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// changes lists what differs, one file a line.
func changes(d *difference.Difference) string {
	var sb strings.Builder
	for _, f := range d.Files {
		fmt.Fprintln(&sb, f.Change, strings.Repeat(fmt.Sprintf("in partition %d ", f.Partition), min(1, f.Partition))+string(f.Path), strings.Join(f.Differs, " "))
	}
	return sb.String()
}

func TestImages(t *testing.T) {
	was := imagetest.Bookworm(t)
	is := imagetest.Bookworm(t,
		imagetest.WithRootSize(imagetest.RootSize+8<<20),
		imagetest.WithFile("/etc/hostname", "oneil\n", 0o644, 0, 0),
		imagetest.WithFile("/etc/hatchery/key", "secret", 0o600, 0, 0),
		imagetest.WithBootFile("new.txt", "new\n"))
	edited, err := os.OpenFile(is, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	var id [4]byte
	binary.LittleEndian.PutUint32(id[:], 0x0badcafe)
	if _, err := edited.WriteAt(id[:], 440); err != nil {
		t.Fatal(err)
	}
	edited.Close()

	d := compareImages(t, was, is, difference.Options{WasName: "base", IsName: "p1"})
	const want = `added /boot/firmware/new.txt 
added /etc/hatchery 
added /etc/hatchery/key 
changed /etc/hostname content
`
	if diff := cmp.Diff(want, changes(d)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if len(d.Problems) > 0 {
		t.Errorf("problems: %q", d.Problems)
	}
	report := text(t, d, difference.TextOptions{NoDiffs: true})
	for _, want := range []string{
		"+++ p1  (\"Raspbian GNU/Linux 12 (bookworm)\", ", "\nImage\n  ~ size: ", " (+8 MiB)\n",
		"~ disk id: 5e7a11d0 → 0badcafe\n", "Partition 1 (vfat, bootfs)\n  ~ partition uuid: 5e7a11d0-01 → 0badcafe-01\n",
		"Partition 2 (ext4, rootfs)\n  ~ size: 56 MiB → 64 MiB (+8 MiB)\n  ~ partition uuid: 5e7a11d0-02 → 0badcafe-02\n",
		"~ file system size: 56 MiB", "; the image +8 MiB\n",
	} {
		if !strings.Contains(strings.ReplaceAll(report, "Raspbian GNU/Linux 12 (bookworm), ", "\"Raspbian GNU/Linux 12 (bookworm)\", "), want) {
			t.Errorf("%q is not told in\n%s", want, report)
		}
	}
	for _, p := range []string{was, is} {
		if d := compareImages(t, p, p, difference.Options{}); !d.Empty() || d.Totals.Touched != 0 {
			t.Errorf("an image differs from itself: %s", changes(d))
		}
	}
	one := open(t, was)
	if d, err := difference.Compare(context.Background(), one, one, difference.Options{}); err != nil || !d.Empty() {
		t.Errorf("an image differs from itself: %v %v", d, err)
	}
}

// TestReleases: the boot partition lies elsewhere in another release, and its
// words and settings are compared all the same.
func TestReleases(t *testing.T) {
	was := imagetest.Bullseye(t, imagetest.WithBootFile("cmdline.txt", "root=/dev/mmcblk0p2 quiet\n"), imagetest.WithBootFile("config.txt", "a=1\n"))
	is := imagetest.Bookworm(t, imagetest.WithBootFile("cmdline.txt", "root=/dev/mmcblk0p2 loud\n"), imagetest.WithBootFile("config.txt", "a=2\n"))
	d := compareImages(t, was, is, difference.Options{})
	want := &difference.Cmdline{Path: "/boot/firmware/cmdline.txt", Added: []difference.Text{"loud"}, Removed: []difference.Text{"quiet"}}
	if diff := cmp.Diff([]difference.Section{{Name: "all", Added: []difference.Text{"a=2"}, Removed: []difference.Text{"a=1"}}}, d.Config); diff != "" {
		t.Errorf("config.txt (-want +got):\n%s", diff)
	}
	if !cmp.Equal(want, d.Cmdline) {
		t.Errorf("the command lines are not compared: %+v", d.Cmdline)
	}
	if got, want := fmt.Sprint(d.Image.Was.Release, d.Image.Is.Release), "bullseye"; !strings.Contains(got, want) {
		t.Errorf("got %s", got)
	}
	if len(d.Problems) > 0 {
		t.Errorf("problems: %q", d.Problems)
	}
}

// TestWithoutRoot: images without an operating system are compared partition
// by partition.
func TestWithoutRoot(t *testing.T) {
	was := imagetest.Bookworm(t, imagetest.WithoutRoot())
	is := imagetest.Bookworm(t, imagetest.WithoutRoot(), imagetest.WithBootFile("config.txt", "[all]\nnew=1\n"))
	d := compareImages(t, was, is, difference.Options{})
	if got, want := changes(d), "changed in partition 1 /config.txt content\n"; got != want {
		t.Errorf("got %s", got)
	}
	if len(d.Config) == 0 || !slices.Contains(d.Config[0].Added, "new=1") {
		t.Errorf("config.txt: %+v", d.Config)
	}
	d = compareImages(t, was, imagetest.Bookworm(t), difference.Options{})
	if len(d.Image.Partitions) != 1 || d.Image.Partitions[0].Change != difference.Added {
		t.Errorf("partitions: %+v", d.Image.Partitions)
	}
	for _, lines := range []string{"+ type 83, 56 MiB at byte 46137344", "Partition 2 (ext4, rootfs)"} {
		if got := text(t, d, difference.TextOptions{}); !strings.Contains(got, lines) {
			t.Errorf("%q is not told in\n%s", lines, got)
		}
	}
}

// TestBrokenImages: whatever bytes are wrong, a comparison ends and says
// something.
func TestBrokenImages(t *testing.T) {
	base := imagetest.Bookworm(t)
	file, err := os.Open(base)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	was := open(t, base)
	for seed := range 40 {
		broken := flipped{file, map[int64]byte{}}
		// Metadata lies at the beginnings of the partitions.
		for i := range 60 {
			at := int64((seed*7919+i*104729)*97%(1<<20)) + imagetest.BootStart
			if i%2 == 0 {
				at += imagetest.RootStart - imagetest.BootStart
			}
			broken.bytes[at] = byte(1 + seed + i)
		}
		im, err := diskimage.Open(broken, imagetest.RootStart+imagetest.RootSize)
		if err != nil {
			continue
		}
		d, err := difference.Compare(context.Background(), was, im, difference.Options{})
		if err == nil && d.Empty() && len(d.Problems) == 0 {
			t.Errorf("seed %d: no difference", seed)
		}
	}
}

// flipped is a file with bits of some bytes flipped.
type flipped struct {
	*os.File
	bytes map[int64]byte
}

func (f flipped) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.File.ReadAt(p, off)
	for at, bits := range f.bytes {
		if at >= off && at < off+int64(n) {
			p[at-off] ^= bits
		}
	}
	return n, err
}

// TestKernelJudges changes a file system through the kernel and has find and
// diff say, of both mounted, what differs.
func TestKernelJudges(t *testing.T) {
	testtool.NeedRoot(t)
	for i, v := range []string{"trixie-4k", "bookworm-1k", "deb-default-4k"} {
		t.Run(v, func(t *testing.T) {
			if i > 0 && testing.Short() {
				t.Skip("one shape is enough for a short run")
			}
			was := ext4test.Make(t, ext4test.Named(t, v), 48<<20)
			dir, unmount := ext4test.Mount(t, was)
			shell(t, dir, `
				umask 022
				mkdir -p etc home/pi/deep usr/bin usr/lib/gone/a/b many
				echo raspberrypi >etc/hostname
				echo same >etc/same
				printf 'one\ntwo\n' >etc/text
				head -c 700000 /dev/zero | tr '\0' x >usr/lib/large
				cp usr/lib/large usr/lib/large2
				for i in $(seq 1500); do echo $i >many/$i; done
				echo profile >home/pi/.profile; echo x >home/pi/deep/x; chown -R 1000:1000 home/pi
				cp /bin/true usr/bin/ping; setfattr -n security.capability -v 0x0100000200200000000000000000000000000000 usr/bin/ping
				cp usr/bin/ping usr/bin/pong
				echo gone >usr/lib/gone/a/b/c; ln -s ../etc usr/etc; ln -s nowhere usr/dangling
				mknod usr/null c 1 3; mkfifo usr/fifo
				ln usr/bin/ping usr/bin/ping4
				echo acl >etc/acl; setfacl -m u:1000:r etc/acl
				truncate -s 5M usr/hole; printf end >>usr/hole
				touch -d 2026-05-13T00:00:00Z etc/touched`)
			unmount()
			is := filepath.Join(t.TempDir(), "is.img")
			testtool.Run(t, "cp", "--sparse=always", was, is)
			dir, unmount = ext4test.Mount(t, is)
			shell(t, dir, `
				umask 022
				echo oneil >etc/hostname
				printf 'one\n2\n' >etc/text
				touch -d 2001-01-01 etc/touched
				printf y | dd of=usr/lib/large bs=1 seek=699999 conv=notrunc 2>/dev/null
				for i in $(seq 3 7 1500); do rm many/$i; done
				for i in $(seq 2000 2200); do echo $i >many/$i; done
				chmod 4755 many/1; chown 5:6 many/2
				mv home/pi home/anna
				setfattr -n security.capability -v 0x0100000200400000000000000000000000000000 usr/bin/pong
				rm -r usr/lib/gone usr/dangling; ln -sfn ../home usr/etc
				rm usr/null usr/fifo; mknod usr/null c 1 5; echo file >usr/fifo
				rm usr/bin/ping4; cp -a usr/bin/ping usr/bin/ping4
				setfacl -m u:1000:rw etc/acl
				printf END | dd of=usr/hole bs=1 seek=5M conv=notrunc 2>/dev/null
				mkdir -m 700 etc/secret; echo key >etc/secret/key
				chmod 1777 etc
				printf x >"etc/a name
with a line"`)
			unmount()
			ext4test.Fsck(t, is)

			d := compareImages(t, was, is, difference.Options{})
			mountedWas, _ := ext4test.Mount(t, was)
			mountedIs, _ := ext4test.Mount(t, is)
			want := kernelSays(t, mountedWas, mountedIs)
			var got []string
			for _, f := range d.Files {
				switch f.Change {
				case difference.Renamed: // the kernel knows nothing of renames
					got = append(got, "removed "+string(f.RenamedFrom), "added "+string(f.Path))
				default:
					got = append(got, f.Change+" "+string(f.Path))
				}
			}
			slices.Sort(got)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-kernel +got):\n%s", diff)
			}
			var touched []string
			for _, f := range d.Touched {
				touched = append(touched, string(f.Path))
			}
			if diff := cmp.Diff([]string{"/etc/touched"}, touched); diff != "" {
				t.Errorf("touched (-want +got):\n%s", diff)
			}
			for path, want := range map[string]string{
				"/home/anna": "renamed []", "/home/anna/.profile": "renamed []", "/usr/bin/pong": "changed [xattrs]", "/usr/bin/ping4": "changed [hard_links]",
				"/etc": "changed [mode]", "/usr/null": "changed [device]", "/usr/fifo": "changed [type]", "/usr/etc": "changed [target]",
				"/many/1": "changed [mode]", "/many/2": "changed [owner]", "/usr/hole": "changed [content]", "/etc/acl": "changed [mode xattrs]",
			} {
				i := slices.IndexFunc(d.Files, func(f difference.File) bool { return string(f.Path) == path })
				if i < 0 || fmt.Sprint(d.Files[i].Change, " ", d.Files[i].Differs) != want {
					t.Errorf("%s is not told as %s: %s", path, want, changes(d))
				}
			}
			if f := find(t, d, "/etc/text"); f.Diff != "@@ -1,2 +1,2 @@\n one\n-two\n+2\n" {
				t.Errorf("the diff is %q", f.Diff)
			}
		})
	}
}

func find(t *testing.T, d *difference.Difference, path string) *difference.File {
	t.Helper()
	for i := range d.Files {
		if string(d.Files[i].Path) == path {
			return &d.Files[i]
		}
	}
	t.Fatalf("%s does not differ", path)
	return nil
}

func shell(t *testing.T, dir, script string) {
	t.Helper()
	for _, tool := range []string{"setfattr", "setfacl", "dd"} {
		testtool.Need(t, tool)
	}
	cmd := exec.Command(testtool.Need(t, "bash"), "-euo", "pipefail", "-c", script)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// kernelSays lists what differs as find, getfattr and diff see it.
func kernelSays(t *testing.T, was, is string) []string {
	t.Helper()
	// Type, mode, owner, target, and of files size and names, of devices their
	// numbers; extended attributes beside.
	list := func(dir string) map[string]string {
		files := map[string]string{}
		out := testtool.Run(t, "find", dir, "-printf", `%P\0%y %#m %U:%G %l\0%s links %n\0`)
		fields := strings.Split(strings.TrimSuffix(out, "\x00"), "\x00")
		for i := 0; i+3 <= len(fields); i += 3 {
			path, about := "/"+fields[i], fields[i+1]
			switch about[0] {
			case 'f':
				about += " " + fields[i+2]
			case 'c', 'b':
				about += " " + testtool.Run(t, "stat", "-c", "%t:%T", filepath.Join(dir, fields[i]))
			}
			files[path] = about
		}
		for block := range strings.SplitSeq(testtool.Run(t, "getfattr", "-R", "-h", "-d", "-m", "-", "-e", "hex", "--absolute-names", dir), "\n\n") {
			if head, attrs, ok := strings.Cut(block, "\n"); ok {
				files[strings.TrimPrefix(head, "# file: "+dir)] += " " + attrs
			}
		}
		return files
	}
	before, after := list(was), list(is)
	said := map[string]bool{}
	for path, about := range before {
		switch now, ok := after[path]; {
		case !ok:
			said["removed "+path] = true
		case now != about && path != "/usr/bin/ping":
			// That ping has one name less is told of the other.
			said["changed "+path] = true
		}
	}
	for path := range after {
		if _, ok := before[path]; !ok {
			said["added "+path] = true
		}
	}
	out, err := exec.Command(testtool.Need(t, "diff"), "-rq", "--no-dereference", was, is).CombinedOutput()
	if exit, ok := err.(*exec.ExitError); err != nil && (!ok || exit.ExitCode() != 1) {
		t.Fatalf("diff: %v\n%s", err, out)
	}
	contents := 0
	for line := range strings.Lines(string(out)) {
		if rest, ok := strings.CutPrefix(line, "Files "+was); ok && strings.HasSuffix(line, " differ\n") {
			path, _, _ := strings.Cut(rest, " and ")
			said["changed "+path] = true
			contents++
		}
	}
	if contents < 4 {
		t.Fatalf("diff saw only %d contents that differ:\n%s", contents, out)
	}
	var all []string
	for s := range said {
		all = append(all, s)
	}
	slices.Sort(all)
	return all
}
