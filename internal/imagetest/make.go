package imagetest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// toolbox holds the paths of the tools by their names.
type toolbox map[string]string

// run runs a tool with its output to w (nil: kept for the error only). Every
// tool that can be told the time is told Epoch.
func run(w io.Writer, stdin, tool string, args ...string) error {
	cmd := exec.Command(tool, args...)
	cmd.Env = append(os.Environ(),
		fmt.Sprintf("E2FSPROGS_FAKE_TIME=%d", Epoch),
		fmt.Sprintf("SOURCE_DATE_EPOCH=%d", Epoch),
		"TZ=UTC", "LC_ALL=C.UTF-8", "MTOOLS_SKIP_CHECK=1",
		"MKE2FS_CONFIG=/dev/null", "DEBUGFS_PAGER=cat")
	cmd.Stdin = strings.NewReader(stdin)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if w != nil {
		cmd.Stdout = w
	}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %q: %w\n%s", filepath.Base(tool), args, err, said.Bytes())
	}
	return nil
}

// make builds the image in a folder and gives its bytes.
func (r *recipe) make(tools toolbox, dir string) (content, error) {
	image := filepath.Join(dir, "image")
	size := r.rootStart()
	if !r.noRoot {
		size += r.rootSize
	}
	if r.gpt {
		size += 1 << 20 // the second copy of the table
	}
	if err := create(image, size); err != nil {
		return content{}, err
	}
	if err := r.makeTable(tools, image); err != nil {
		return content{}, err
	}
	boot, root := filepath.Join(dir, "boot"), filepath.Join(dir, "root")
	if err := r.makeBoot(tools, dir, boot); err != nil {
		return content{}, err
	}
	if err := insert(image, boot, r.release.align); err != nil {
		return content{}, err
	}
	if !r.noRoot {
		if err := r.makeRoot(tools, dir, root); err != nil {
			return content{}, err
		}
		if err := insert(image, root, r.rootStart()); err != nil {
			return content{}, err
		}
	}
	return read(image)
}

// makeTable writes the partition table.
func (r *recipe) makeTable(tools toolbox, image string) error {
	script := fmt.Sprintf("label: dos\nlabel-id: 0x%08x\n", DiskID)
	types := [2]string{"c", "83"}
	if r.gpt {
		script = "label: gpt\nlabel-id: B00C0DE5-0000-4000-8000-000000000002\n"
		types = [2]string{
			"EBD0A0A2-B9E5-4433-87C0-68B6B72699C7, uuid=B00C0DE5-0000-4000-8000-000000000003",
			"0FC63DAF-8483-4772-8E79-3D69D8477DE4, uuid=B00C0DE5-0000-4000-8000-000000000004",
		}
	}
	script += fmt.Sprintf("start=%d, size=%d, type=%s\n", r.release.align/512, r.bootSize()/512, types[0])
	if !r.noRoot {
		script += fmt.Sprintf("start=%d, size=%d, type=%s\n", r.rootStart()/512, r.rootSize/512, types[1])
	}
	return run(nil, script, tools["sfdisk"], "-q", image)
}

// makeBoot makes the FAT32 file system.
func (r *recipe) makeBoot(tools toolbox, dir, image string) error {
	if err := create(image, r.bootSize()); err != nil {
		return err
	}
	err := run(nil, "", tools["mkfs.fat"], "--invariant", "-F", "32", "-s", fmt.Sprint(r.release.clusters),
		"-h", fmt.Sprint(r.release.align/512), "-n", r.release.label, "-i", fmt.Sprintf("%08x", uint32(BootID)), image)
	if err != nil {
		return err
	}
	// The files of a folder in one go, in order of their names.
	folders := map[string][]string{}
	stamp := time.Unix(Epoch, 0)
	for _, name := range sorted(r.boot) {
		host := filepath.Join(dir, "boot-files", filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(host), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(host, r.boot[name], 0o600); err != nil {
			return err
		}
		if err := os.Chtimes(host, stamp, stamp); err != nil {
			return err
		}
		folder := path.Dir(name)
		folders[folder] = append(folders[folder], host)
		for _, parent := range parents(name) {
			folders[parent] = append(folders[parent], []string{}...)
		}
	}
	for _, folder := range sorted(folders) { // a folder sorts before what is in it
		if folder != "." {
			if err := run(nil, "", tools["mmd"], "-i", image, "::/"+folder); err != nil {
				return err
			}
		}
		if len(folders[folder]) == 0 {
			continue
		}
		args := append([]string{"-m", "-i", image}, folders[folder]...)
		if err := run(nil, "", tools["mcopy"], append(args, "::/"+folder)...); err != nil {
			return err
		}
	}
	return nil
}

// makeRoot makes the ext4 file system, and debugfs fills it: that needs no
// root to give a file an owner.
func (r *recipe) makeRoot(tools toolbox, dir, image string) error {
	if r.rootSize%4096 != 0 {
		return fmt.Errorf("the root's size %d is not a multiple of 4096", r.rootSize)
	}
	if err := create(image, r.rootSize); err != nil {
		return err
	}
	err := run(nil, "", tools["mke2fs"], "-q", "-F", "-t", "ext4", "-O", r.release.features, "-b", "4096", "-I", "256",
		"-i", "16384", "-L", "rootfs", "-U", RootUUID, "-E", "hash_seed="+RootUUID+",lazy_itable_init=0", image)
	if err != nil {
		return err
	}
	script, err := r.fillScript(dir)
	if err != nil {
		return err
	}
	commands := filepath.Join(dir, "commands")
	if err := os.WriteFile(commands, []byte(script), 0o600); err != nil {
		return err
	}
	// debugfs ends well whatever its commands did, but says why on stderr.
	if err := debugfs(tools["debugfs"], "-w", "-f", commands, image); err != nil {
		return err
	}
	for _, command := range r.last {
		if err := debugfs(tools["debugfs"], "-w", "-R", command, image); err != nil {
			return err
		}
	}
	return nil
}

// debugfs runs debugfs and takes whatever it has to say on stderr, but for its
// greeting, as a failure.
func debugfs(tool string, args ...string) error {
	cmd := exec.Command(tool, args...)
	cmd.Env = append(os.Environ(), fmt.Sprintf("E2FSPROGS_FAKE_TIME=%d", Epoch), "LC_ALL=C.UTF-8", "DEBUGFS_PAGER=cat")
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("debugfs %q: %w\n%s", args, err, complaints.Bytes())
	}
	_, rest, _ := strings.Cut(complaints.String(), "\n")
	if rest = strings.TrimSpace(rest); rest != "" {
		return fmt.Errorf("debugfs %q: %s", args, rest)
	}
	return nil
}

// fillScript gives debugfs' commands for the whole tree; the files' contents
// go into dir.
func (r *recipe) fillScript(dir string) (string, error) {
	tree := map[string]file{"/lost+found": {mode: fs.ModeDir | 0o700}, "/": {mode: fs.ModeDir | 0o755}}
	for name, f := range r.files {
		tree[name] = f
	}
	for name := range r.files {
		for _, parent := range parents(strings.TrimPrefix(name, "/")) {
			if _, there := tree["/"+parent]; !there {
				tree["/"+parent] = file{mode: fs.ModeDir | 0o755}
			}
		}
	}
	var script strings.Builder
	for number, name := range sorted(tree) { // a folder sorts before what is in it
		f := tree[name]
		if strings.ContainsAny(name+f.link, " \"'\\\n") {
			return "", fmt.Errorf("debugfs cannot be told the name %q", name)
		}
		var typeBits uint32
		switch {
		case f.mode.IsDir():
			typeBits = 0o040000
			if name != "/" && name != "/lost+found" {
				fmt.Fprintf(&script, "mkdir %s\n", name)
			}
		case f.mode&fs.ModeSymlink != 0:
			typeBits = 0o120000
			fmt.Fprintf(&script, "symlink %s %s\n", name, f.link)
		case f.mode.IsRegular():
			typeBits = 0o100000
			host := filepath.Join(dir, fmt.Sprintf("root-%d", number))
			if err := os.WriteFile(host, []byte(f.content), 0o600); err != nil {
				return "", err
			}
			// write takes a bare name, in the current folder.
			fmt.Fprintf(&script, "cd %s\nwrite %s %s\ncd /\n", path.Dir(name), host, path.Base(name))
		default:
			return "", fmt.Errorf("%s: a miniature holds files, folders and symbolic links, not %v", name, f.mode)
		}
		fmt.Fprintf(&script, "sif %s mode 0%o\nsif %s uid %d\nsif %s gid %d\n",
			name, typeBits|uint32(f.mode.Perm())|special(f.mode), name, f.uid, name, f.gid)
		for _, field := range []string{"atime", "ctime", "mtime", "crtime"} {
			fmt.Fprintf(&script, "sif %s %s @%d\n", name, field, Epoch)
		}
	}
	return script.String(), nil
}

// special gives setuid, setgid and sticky as ext4 has them.
func special(mode fs.FileMode) uint32 {
	var bits uint32
	if mode&fs.ModeSetuid != 0 {
		bits |= 0o4000
	}
	if mode&fs.ModeSetgid != 0 {
		bits |= 0o2000
	}
	if mode&fs.ModeSticky != 0 {
		bits |= 0o1000
	}
	return bits
}

// parents gives a relative path's folders, outermost first.
func parents(name string) []string {
	var all []string
	for dir := path.Dir(name); dir != "." && dir != "/"; dir = path.Dir(dir) {
		all = append(all, dir)
	}
	slices.Reverse(all)
	return all
}

func sorted[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func create(name string, size int64) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Close())
}

// content is a sparse file in memory.
type content struct {
	size  int64
	parts []part
}

type part struct {
	offset int64
	data   []byte
}

// read reads a file, and keeps what is not zero, in pieces of 4 KiB.
func read(name string) (content, error) {
	f, err := os.Open(name)
	if err != nil {
		return content{}, err
	}
	defer f.Close()
	var c content
	piece := make([]byte, 4096)
	for {
		n, err := io.ReadFull(f, piece)
		if n > 0 && len(bytes.Trim(piece[:n], "\x00")) > 0 {
			c.parts = append(c.parts, part{c.size, slices.Clone(piece[:n])})
		}
		c.size += int64(n)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return c, nil
		}
		if err != nil {
			return content{}, err
		}
	}
}

// writeAt writes the parts into a file, which has holes or zeros elsewhere.
func (c content) writeAt(f *os.File, offset int64) error {
	for _, p := range c.parts {
		if _, err := f.WriteAt(p.data, offset+p.offset); err != nil {
			return err
		}
	}
	return nil
}

// write makes a sparse file of the content.
func (c content) write(name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(c.size), c.writeAt(f, 0), f.Close())
}

// insert copies one file into another at an offset.
func insert(into, from string, offset int64) error {
	c, err := read(from)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(into, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(c.writeAt(f, offset), f.Close())
}
