package imagetest

import (
	"embed"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
)

// trees are what the releases have, as files: trees/README.md.
//
//go:embed all:trees
var trees embed.FS

// file is one entry of the root: a regular file, a folder or a symbolic link.
type file struct {
	mode     fs.FileMode
	uid, gid uint32
	content  string
	link     string
}

func link(target string) file { return file{mode: fs.ModeSymlink | 0o777, link: target} }

// nothing is what a program does that stands in for another.
const nothing = "#!/bin/sh\nexit 0\n"

// lay lays trees over what the recipe has.
func (r *recipe) lay(names ...string) {
	for _, name := range names {
		if err := r.layTree(name); err != nil {
			panic(fmt.Sprintf("imagetest: tree %s: %v", name, err)) // a fault of this package's own files
		}
	}
}

func (r *recipe) layTree(name string) error {
	sub, err := fs.Sub(trees, "trees/"+name)
	if err != nil {
		return err
	}
	if _, err := fs.Stat(sub, "."); err != nil {
		return err
	}
	for _, p := range lines(sub, "without") {
		if _, there := r.files[p]; !there {
			return fmt.Errorf("without: %s is not there", p)
		}
		delete(r.files, p)
	}
	for _, p := range lines(sub, "without-boot") {
		if _, there := r.boot[p]; !there {
			return fmt.Errorf("without-boot: %s is not there", p)
		}
		delete(r.boot, p)
	}
	err = fs.WalkDir(sub, ".", func(p string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := fs.ReadFile(sub, p)
		if err != nil {
			return err
		}
		switch top, rest, _ := strings.Cut(p, "/"); {
		case top == "boot":
			r.boot[rest] = data
		case top == "root":
			mode := fs.FileMode(0o644)
			if strings.HasPrefix(string(data), "#!") {
				mode = 0o755
			}
			r.files["/"+rest] = file{mode: mode, content: string(data)}
		case rest != "":
			return fmt.Errorf("%s belongs to neither root nor boot", p)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, p := range lines(sub, "programs") {
		r.files[p] = file{mode: 0o755, content: nothing}
	}
	for _, p := range lines(sub, "boot-files") {
		r.boot[p] = []byte("stands in for " + p + "\n")
	}
	for _, line := range lines(sub, "links") {
		name, target, ok := strings.Cut(line, " -> ")
		if !ok {
			return fmt.Errorf("links: %q is no link", line)
		}
		r.files["/"+name] = link(target)
	}
	for _, line := range lines(sub, "modes") {
		if err := r.setMode(line); err != nil {
			return fmt.Errorf("modes: %w", err)
		}
	}
	return nil
}

// setMode does one line of a tree's modes.
func (r *recipe) setMode(line string) error {
	fields := strings.Fields(line)
	if len(fields) != 4 {
		return fmt.Errorf("%q is not path, mode, uid, gid", line)
	}
	var numbers [3]uint64
	for i, base := range []int{8, 10, 10} {
		number, err := strconv.ParseUint(fields[i+1], base, 32)
		if err != nil {
			return err
		}
		numbers[i] = number
	}
	p := "/" + strings.TrimSuffix(fields[0], "/")
	f, there := r.files[p]
	switch isFolder := strings.HasSuffix(fields[0], "/"); {
	case isFolder:
		f = file{mode: fs.ModeDir}
	case !there:
		return fmt.Errorf("%s is not there", p)
	}
	f.mode = f.mode.Type() | fs.FileMode(numbers[0]&0o777)
	for bit, mode := range map[uint64]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if numbers[0]&bit != 0 {
			f.mode |= mode
		}
	}
	f.uid, f.gid = uint32(numbers[1]), uint32(numbers[2])
	r.files[p] = f
	return nil
}

// lines gives the lines of a tree's list, without remarks; none if there is no
// such list.
func lines(tree fs.FS, name string) []string {
	data, err := fs.ReadFile(tree, name)
	if err != nil {
		return nil
	}
	var all []string
	for line := range strings.Lines(string(data)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			all = append(all, line)
		}
	}
	return all
}

// fill puts what is the miniature's own in place of the names between @.
func (r *recipe) fill() {
	filler := strings.NewReplacer(
		"@DISKID@", fmt.Sprintf("%08x", uint32(DiskID)), "@DATE@", r.release.date,
		"@ARCH@", r.architecture, "@RELEASE@", r.release.codename)
	for p, f := range r.files {
		f.content = filler.Replace(f.content)
		r.files[p] = f
	}
	for p, data := range r.boot {
		r.boot[p] = []byte(filler.Replace(string(data)))
	}
	r.boot["issue.txt"] = []byte(r.files["/etc/rpi-issue"].content)
}

// tzif is the smallest file that is a time zone: version 1, no transitions,
// one type, which is UTC.
const tzif = "TZif" + "\x00" + "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" +
	"\x00\x00\x00\x00" + "\x00\x00\x00\x00" + "\x00\x00\x00\x00" + "\x00\x00\x00\x00" + "\x00\x00\x00\x01" + "\x00\x00\x00\x04" +
	"\x00\x00\x00\x00\x00\x00" + "UTC\x00"

// unnamed adds the files that the trees cannot hold: zone files, which are no
// text, and those with a colon in their name.
func (r *recipe) unnamed() {
	for _, zone := range []string{"Etc/UTC", "Europe/London", "Europe/Berlin", "America/New_York"} {
		r.files[path.Join("/usr/share/zoneinfo", zone)] = file{mode: 0o644, content: tzif}
	}
	for name, content := range r.release.rfkill {
		r.files["/var/lib/systemd/rfkill/"+name] = file{mode: 0o644, content: content}
	}
}
