package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"hatchery/imagebuilder"
	"hatchery/imagebuilder/difference"
	"hatchery/imagebuilder/diskimage"
)

// listed is a file of an image, as JSON has it. Names that are not UTF-8 are
// told as [difference.Text] tells them, so that no two look the same.
type listed struct {
	Path      difference.Text   `json:"path"`
	Type      string            `json:"type"` // file, dir, link, char, block, pipe, socket
	Mode      string            `json:"mode"` // octal, with setuid, setgid and sticky
	UID       uint32            `json:"uid"`
	GID       uint32            `json:"gid"`
	Size      int64             `json:"size"`
	ModTime   time.Time         `json:"mtime"`
	Links     uint32            `json:"links"`
	Inode     uint64            `json:"inode"`
	Partition int               `json:"partition"`
	Target    difference.Text   `json:"target,omitempty"`
	Major     *uint32           `json:"major,omitempty"`
	Minor     *uint32           `json:"minor,omitempty"`
	Xattrs    map[string][]byte `json:"xattrs,omitempty"` // values in base64
	Problem   string            `json:"problem,omitempty"`
}

func listedOf(n diskimage.Node) listed {
	e := listed{
		Path: difference.Text(n.Path), Type: typeOf(n.Mode), Mode: fmt.Sprintf("%04o", octal(n.Mode)), UID: n.UID, GID: n.GID, Size: n.Size,
		ModTime: n.ModTime, Links: n.Links, Inode: n.Inode, Partition: n.Partition, Target: difference.Text(n.Target), Xattrs: n.Xattrs, Problem: n.Problem,
	}
	if n.Mode&fs.ModeDevice != 0 {
		e.Major, e.Minor = &n.Major, &n.Minor
	}
	return e
}

func typeOf(m fs.FileMode) string {
	switch {
	case m.IsDir():
		return "dir"
	case m&fs.ModeSymlink != 0:
		return "link"
	case m&fs.ModeCharDevice != 0:
		return "char"
	case m&fs.ModeDevice != 0:
		return "block"
	case m&fs.ModeNamedPipe != 0:
		return "pipe"
	case m&fs.ModeSocket != 0:
		return "socket"
	}
	return "file"
}

func octal(m fs.FileMode) uint32 {
	bits := uint32(m.Perm())
	for _, special := range []struct {
		mode fs.FileMode
		bit  uint32
	}{{fs.ModeSetuid, 0o4000}, {fs.ModeSetgid, 0o2000}, {fs.ModeSticky, 0o1000}} {
		if m&special.mode != 0 {
			bits |= special.bit
		}
	}
	return bits
}

// modeString is a mode as ls prints it.
func modeString(m fs.FileMode) string {
	s := []byte(map[string]string{"dir": "d", "link": "l", "char": "c", "block": "b", "pipe": "p", "socket": "s", "file": "-"}[typeOf(m)] + m.Perm().String()[1:])
	for _, special := range []struct {
		mode fs.FileMode
		at   int
		mark byte
	}{{fs.ModeSetuid, 3, 's'}, {fs.ModeSetgid, 6, 's'}, {fs.ModeSticky, 9, 't'}} {
		if m&special.mode != 0 {
			if s[special.at] == '-' {
				s[special.at] = special.mark - 'a' + 'A'
			} else {
				s[special.at] = special.mark
			}
		}
	}
	return string(s)
}

// shown is a name from an image, which must not write over the terminal:
// quoted where it holds more than what is printed.
func shown(name string) string {
	if utf8.ValidString(name) && !strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return name
	}
	return strconv.Quote(name)
}

func (i *inspection) ls(image *imagebuilder.OpenedImage, args []string) error {
	tree, name, err := i.at(image, append(args, "/")[0])
	if err != nil {
		return err
	}
	n, err := diskimage.Stat(tree, name)
	if err != nil {
		return inputError(image, err)
	}
	if !n.IsDir() {
		if n, err = tree.Lstat(name); err != nil {
			return inputError(image, err)
		}
	}
	list := &listing{inspection: i, tree: tree, name: name}
	switch {
	case !n.IsDir():
		err = list.print([]diskimage.Node{n}, func(n diskimage.Node) string { return shown(name) })
	case i.recursive:
		err = list.folders(n)
	default:
		var nodes []diskimage.Node
		if nodes, err = tree.ReadDir(name); err == nil {
			err = list.print(nodes, base)
		}
	}
	if err == nil && i.json {
		err = printJSON(i.out(), list.all)
	}
	return inputError(image, err)
}

func base(n diskimage.Node) string { return shown(path.Base(n.Path)) }

// listing is one output of ls.
type listing struct {
	*inspection
	tree diskimage.Tree
	name string
	all  []listed // with --json
}

// folders lists a folder, and every one below it.
func (l *listing) folders(top diskimage.Node) error {
	return l.tree.Walk(top.Path, func(n diskimage.Node) error {
		if err := l.command.Context().Err(); err != nil {
			return err
		}
		if !n.IsDir() {
			return nil
		}
		if n.Problem != "" {
			l.complain(n)
			return nil
		}
		nodes, err := l.tree.ReadDir(n.Path)
		if err != nil {
			return err
		}
		if !l.json {
			if n.Path != top.Path {
				fmt.Fprintln(l.out())
			}
			fmt.Fprintf(l.out(), "%s:\n", shown(n.Path))
		}
		return l.print(nodes, base)
	})
}

func (i *inspection) complain(n diskimage.Node) {
	if !i.json {
		fmt.Fprintf(i.command.ErrOrStderr(), "hatchery: %s: %s\n", shown(n.Path), shown(n.Problem))
	}
}

// print lists nodes, each by the name that is given to it.
func (l *listing) print(nodes []diskimage.Node, name func(diskimage.Node) string) error {
	if l.json {
		if l.all == nil {
			l.all = []listed{}
		}
		for _, n := range nodes {
			l.all = append(l.all, listedOf(n))
		}
		return nil
	}
	if !l.long {
		for _, n := range nodes {
			fmt.Fprintln(l.out(), name(n))
			if n.Problem != "" {
				l.complain(n)
			}
		}
		return nil
	}
	var rows [][]string
	width := make([]int, 4)
	for _, n := range nodes {
		size := strconv.FormatInt(n.Size, 10)
		if n.Mode&fs.ModeDevice != 0 {
			size = fmt.Sprintf("%d, %d", n.Major, n.Minor)
		}
		text := name(n)
		if n.Mode&fs.ModeSymlink != 0 {
			text += " -> " + shown(n.Target)
		}
		if n.Problem != "" {
			text += "  (" + shown(n.Problem) + ")"
		}
		row := []string{strconv.Itoa(int(n.Links)), strconv.Itoa(int(n.UID)), strconv.Itoa(int(n.GID)), size}
		for i, cell := range row {
			width[i] = max(width[i], len(cell))
		}
		rows = append(rows, append(row, modeString(n.Mode), n.ModTime.UTC().Format("2006-01-02 15:04:05"), text))
	}
	for _, r := range rows {
		fmt.Fprintf(l.out(), "%s %*s %*s %*s %*s %s %s\n", r[4], width[0], r[0], width[1], r[1], width[2], r[2], width[3], r[3], r[5], r[6])
	}
	return nil
}

func (i *inspection) tree(image *imagebuilder.OpenedImage, args []string) error {
	tree, name, err := i.at(image, append(args, "/")[0])
	if err != nil {
		return err
	}
	n, err := diskimage.Stat(tree, name)
	if err != nil {
		return inputError(image, err)
	}
	if i.json {
		all := []listed{}
		err := tree.Walk(n.Path, func(n diskimage.Node) error {
			all = append(all, listedOf(n))
			return i.command.Context().Err()
		})
		if err != nil {
			return inputError(image, err)
		}
		return printJSON(i.out(), all)
	}
	fmt.Fprintln(i.out(), shown(name))
	folders, files, err := i.branches(tree, n)
	if err != nil {
		return inputError(image, err)
	}
	fmt.Fprintf(i.out(), "\n%s, %s\n", count(folders, "folder"), count(files, "file"))
	return nil
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// branches draws what is below a folder. Of each it must be known whether
// another one follows, so every line waits for the next.
func (i *inspection) branches(tree diskimage.Tree, top diskimage.Node) (folders, files int, err error) {
	depth := func(p string) int { return strings.Count(strings.TrimSuffix(p, "/"), "/") }
	root := depth(top.Path)
	// left counts, by depth, the names that are yet to come in their folder.
	var left []int
	err = tree.Walk(top.Path, func(n diskimage.Node) error {
		if err := i.command.Context().Err(); err != nil {
			return err
		}
		level := depth(n.Path) - root
		if level > 0 {
			left = left[:level]
			left[level-1]--
			var line strings.Builder
			for _, more := range left[:level-1] {
				if more > 0 {
					line.WriteString("│   ")
				} else {
					line.WriteString("    ")
				}
			}
			if left[level-1] > 0 {
				line.WriteString("├── ")
			} else {
				line.WriteString("└── ")
			}
			line.WriteString(base(n))
			switch {
			case n.IsDir():
				line.WriteString("/")
				folders++
			default:
				files++
			}
			if n.Mode&fs.ModeSymlink != 0 {
				line.WriteString(" -> " + shown(n.Target))
			}
			if n.Problem != "" {
				line.WriteString("  (" + shown(n.Problem) + ")")
			}
			fmt.Fprintln(i.out(), line.String())
		}
		if !n.IsDir() || n.Problem != "" {
			return nil
		}
		nodes, err := tree.ReadDir(n.Path)
		left = append(left[:level], len(nodes))
		return err
	})
	return folders, files, err
}

func (i *inspection) cat(image *imagebuilder.OpenedImage, args []string) error {
	if i.json {
		return usageError{errors.New("inspect cat prints files as they are: --json means nothing to it")}
	}
	for _, arg := range args {
		tree, name, err := i.at(image, arg)
		if err != nil {
			return err
		}
		if err := i.catFile(tree, name); err != nil {
			return inputError(image, err)
		}
	}
	return nil
}

func (i *inspection) catFile(tree diskimage.Tree, name string) error {
	f, err := tree.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, 256<<10)
	for first := true; ; first = false {
		n, err := io.ReadFull(f, buf)
		if first && !i.force && onTerminal(i.out()) && isBinary(buf[:n]) {
			return usageError{fmt.Errorf("%s is binary, which a terminal cannot show: send it to a file, or say --force", shown(name))}
		}
		if _, err := i.out().Write(buf[:n]); err != nil {
			return err
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot read %s: %w", shown(name), err)
		}
		if err := i.command.Context().Err(); err != nil {
			return err
		}
	}
}

// isBinary says whether data would do more to a terminal than print.
func isBinary(data []byte) bool {
	data = data[:min(len(data), 8<<10)]
	return bytes.ContainsFunc(data, func(r rune) bool {
		return r < 0x20 && !strings.ContainsRune("\t\n\r\f\b", r) || r == 0x7f
	})
}

// spareImage refuses to replace the image that is read, whatever --force says.
func spareImage(image string, places ...string) error {
	read, err := os.Stat(image)
	if err != nil {
		return nil // it was opened; what it is called says nothing here
	}
	for _, place := range places {
		if there, err := os.Stat(place); err == nil && os.SameFile(read, there) {
			return usageError{fmt.Errorf("%s is the image that is being read: give another place", place)}
		}
	}
	return nil
}

func (i *inspection) extract(image *imagebuilder.OpenedImage, args []string) error {
	tree, name, err := i.at(image, args[0])
	if err != nil {
		return err
	}
	if _, err := diskimage.Stat(tree, name); err != nil {
		return inputError(image, err)
	}
	if err := spareImage(image.Name, args[1], path.Join(args[1], path.Base(name))); err != nil {
		return err
	}
	out, err := diskimage.Extract(i.command.Context(), tree, name, args[1], diskimage.ExtractOptions{
		Replace: i.force, Owners: os.Geteuid() == 0, MostBytes: 4*image.Size() + 1<<30,
	})
	switch {
	case errors.Is(err, diskimage.ErrInTheWay):
		return &imagebuilder.InputError{Err: fmt.Errorf("%w: give another place, or --force to replace it", err)}
	case errors.Is(err, fs.ErrNotExist): // not in the image: that was looked at
		return &imagebuilder.InputError{Err: fmt.Errorf("cannot extract to %s: %w", args[1], err)}
	case err != nil:
		return fmt.Errorf("cannot extract %s from %s: %w", shown(name), image.Name, err)
	}
	if i.json {
		return printJSON(i.out(), struct {
			Path    string   `json:"path"`
			Files   int      `json:"files"`
			Folders int      `json:"folders"`
			Links   int      `json:"links"`
			Bytes   int64    `json:"bytes"`
			Skipped []string `json:"skipped"`
		}{out.Path, out.Files, out.Folders, out.Links, out.Bytes, append([]string{}, out.Skipped...)})
	}
	for _, skipped := range out.Skipped {
		fmt.Fprintln(i.command.ErrOrStderr(), "hatchery: left out", shown(skipped))
	}
	fmt.Fprintf(i.out(), "%s: %s, %s, %s, %s\n", out.Path, count(out.Files, "file"), count(out.Folders, "folder"), count(out.Links, "link"), bytesText(out.Bytes))
	return nil
}
