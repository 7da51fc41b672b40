package difference

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// TextOptions say how a report looks.
type TextOptions struct {
	Color bool // for a terminal
	// All shows every file, every line of a diff, and files that are merely
	// touched, where a report else sums up what is long.
	All     bool
	NoDiffs bool
	// Hint says how to see what was summed up; it is the report's last line,
	// if something was: "--all shows everything".
	Hint string
}

// Bounds of what a report shows unless it is to show all.
const (
	mostLine         = 400 // bytes of a line of a diff
	mostDiffLines    = 400 // of a changed file
	mostContentLines = 60  // of an added or removed one
)

// WriteText writes a report for people. It shows no control character of the
// images' as such. The error is w's.
func (d *Difference) WriteText(w io.Writer, o TextOptions) error {
	r := &report{out: bufio.NewWriter(w), o: o, d: d}
	r.write()
	return r.out.Flush()
}

type report struct {
	out    *bufio.Writer // remembers its first error
	o      TextOptions
	d      *Difference
	folded bool // something was left out
}

// The colours that terminals have had for fifty years.
const (
	bold  = "1"
	red   = "31"
	green = "32"
	cyan  = "36"
	faint = "2"
)

func (r *report) paint(color, text string) string {
	if !r.o.Color || text == "" || color == "" {
		return text
	}
	return "\x1b[" + color + "m" + text + "\x1b[0m"
}

func (r *report) print(format string, args ...any) { fmt.Fprintf(r.out, format, args...) }

// heading begins a part of the report.
func (r *report) heading(format string, args ...any) {
	r.print("\n%s\n", r.paint(bold, fmt.Sprintf(format, args...)))
}

// The marks of a line.
const (
	plus  = "+"
	minus = "-"
	tilde = "~"
)

func colorOf(mark string) string {
	switch mark {
	case plus:
		return green
	case minus:
		return red
	}
	return ""
}

// item is one line below a heading.
func (r *report) item(mark, format string, args ...any) {
	r.print("  %s\n", r.paint(colorOf(mark), mark+" "+fmt.Sprintf(format, args...)))
}

func (r *report) write() {
	r.sides()
	if r.d.Empty() {
		if r.d.Totals.Touched == 0 || !r.o.All {
			r.print("\nNo differences%s.\n", r.onlyTouched())
		}
	} else {
		r.image()
		r.boot()
		r.packages()
		r.files()
	}
	r.touched()
	r.problems()
	if !r.o.NoDiffs {
		r.diffs()
	}
	if !r.d.Empty() {
		r.totals()
	}
	if r.folded && r.o.Hint != "" {
		r.print("%s\n", r.paint(faint, r.o.Hint))
	}
}

func (r *report) onlyTouched() string {
	if n := r.d.Totals.Touched; n > 0 {
		return fmt.Sprintf(", but for the times of %s", counted(n, "file"))
	}
	return ""
}

func (r *report) sides() {
	names := [2]string{"the first image", "the second image"}
	for i, s := range []Side{r.d.Image.Was, r.d.Image.Is} {
		if s.Name != "" {
			names[i] = value(Text(s.Name))
		}
		var about []string
		if s.Release != "" {
			about = append(about, value(s.Release))
		}
		if s.Size > 0 {
			about = append(about, bytesText(s.Size))
		}
		if len(about) > 0 {
			names[i] += "  (" + strings.Join(about, ", ") + ")"
		}
	}
	r.print("%s\n%s\n", r.paint(red, "--- "+names[0]), r.paint(green, "+++ "+names[1]))
}

func (r *report) image() {
	d := &r.d.Image
	if d.Size != nil || d.Table != nil || d.DiskID != nil {
		r.heading("Image")
	}
	if d.Size != nil {
		r.item(tilde, "size: %s", sizes(d.Size.Was, d.Size.Is))
	}
	if d.Table != nil {
		r.item(tilde, "partition table: %s → %s", tableName(d.Table.Was), tableName(d.Table.Is))
	}
	if d.DiskID != nil {
		r.item(tilde, "disk id: %s → %s", value(Text(d.DiskID.Was)), value(Text(d.DiskID.Is)))
	}
	for _, p := range d.Partitions {
		title := fmt.Sprintf("Partition %d", p.Number)
		var about []string
		for _, t := range []Text{p.FileSystem, p.Label} {
			if t != "" {
				about = append(about, value(t))
			}
		}
		if len(about) > 0 {
			title += " (" + strings.Join(about, ", ") + ")"
		}
		r.heading("%s", title)
		if p.Was != nil {
			r.item(minus, "%s", p.Was)
		}
		if p.Is != nil {
			r.item(plus, "%s", p.Is)
		}
		for _, v := range p.Values {
			r.partitionValue(v)
		}
	}
}

func (s *PartitionState) String() string {
	return fmt.Sprintf("type %s, %s at byte %d", value(s.Type), bytesText(s.Size), s.Start)
}

func tableName(kind string) string {
	if kind == "" {
		return "none"
	}
	return strings.ToUpper(kind)
}

func (r *report) partitionValue(v PartitionChange) {
	what := strings.ReplaceAll(v.What, "_", " ")
	switch was := v.Was.(type) {
	case int64:
		is, _ := v.Is.(int64)
		if v.What == "start" {
			r.item(tilde, "%s: byte %d → byte %d", what, was, is)
			return
		}
		r.item(tilde, "%s: %s", what, sizes(was, is))
	case Text:
		is, _ := v.Is.(Text)
		if v.What != "features" {
			r.item(tilde, "%s: %s → %s", what, value(was), value(is))
			return
		}
		for _, f := range v.Added {
			r.item(plus, "feature %s", value(f))
		}
		for _, f := range v.Removed {
			r.item(minus, "feature %s", value(f))
		}
	default:
		r.item(tilde, "%s: %s → %s", what, line(fmt.Sprint(v.Was)), line(fmt.Sprint(v.Is)))
	}
}

func (r *report) boot() {
	if c := r.d.Cmdline; c != nil {
		r.heading("Kernel command line (%s)", name(c.Path))
		for _, w := range c.Removed {
			r.item(minus, "%s", line(string(w)))
		}
		for _, w := range c.Added {
			r.item(plus, "%s", line(string(w)))
		}
		for _, w := range c.Changed {
			r.item(tilde, "%s: %s → %s", line(string(w.Key)), value(w.Was), value(w.Is))
		}
		if c.Reordered {
			r.item(tilde, "the same words in another order")
		}
	}
	if len(r.d.Config) == 0 {
		return
	}
	r.heading("config.txt")
	for _, s := range r.d.Config {
		if s.Name != several {
			r.print("  [%s]\n", line(string(s.Name)))
		} else {
			r.print("  under several filters at once\n")
		}
		for _, l := range s.Removed {
			r.item(minus, "%s", line(string(l)))
		}
		for _, l := range s.Added {
			r.item(plus, "%s", line(string(l)))
		}
	}
}

func (r *report) packages() {
	if len(r.d.Packages) == 0 {
		return
	}
	r.heading("Packages")
	for _, p := range r.d.Packages {
		switch {
		case p.Change == Installed:
			r.item(plus, "%s %s", value(p.Name), packageState(p.Is))
		case p.Change == Removed:
			left := ""
			if p.Is != nil {
				left = ", its configuration is left"
			}
			r.item(minus, "%s %s%s", value(p.Name), packageState(p.Was), left)
		case p.Was == nil:
			r.item(plus, "%s %s", value(p.Name), packageState(p.Is))
		case p.Is == nil:
			r.item(minus, "%s %s", value(p.Name), packageState(p.Was))
		default:
			text := fmt.Sprintf("%s → %s", packageState(p.Was), packageState(p.Is))
			if p.Was.State == p.Is.State && p.Was.Architecture == p.Is.Architecture && p.Was.Want == p.Is.Want {
				text = fmt.Sprintf("%s → %s %s", value(p.Was.Version), value(p.Is.Version), value(p.Is.Architecture))
			}
			if p.Change == Downgraded {
				text += "  (older)"
			}
			r.item(tilde, "%s %s", value(p.Name), text)
		}
	}
}

// packageState shows what is unusual about a package beside its version.
func packageState(s *PackageState) string {
	text := value(s.Version) + " " + value(s.Architecture)
	var notes []string
	if s.State != "installed" {
		notes = append(notes, value(s.State))
	}
	if s.Want != "" {
		notes = append(notes, "to be "+value(s.Want))
	}
	if len(notes) > 0 {
		text += " (" + strings.Join(notes, ", ") + ")"
	}
	return text
}

func (r *report) touched() {
	if !r.o.All || len(r.d.Touched) == 0 {
		return
	}
	const form = "2006-01-02 15:04:05"
	r.heading("Only the time differs")
	for _, t := range r.d.Touched {
		r.item(tilde, "%s%s  %s → %s", inPartition(t.Partition), name(t.Path), t.Was.UTC().Format(form), t.Is.UTC().Format(form))
	}
}

func (r *report) problems() {
	if len(r.d.Problems) == 0 {
		return
	}
	r.heading("Not compared")
	for _, p := range r.d.Problems {
		r.print("  ! %s\n", line(strings.ReplaceAll(string(p), "\n", " ")))
	}
}

func inPartition(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("partition %d: ", n)
}

// fileLine is how a file is listed.
func fileLine(f *File) (mark, text string) {
	s := f.Is
	mark = tilde
	switch f.Change {
	case Added:
		mark = plus
	case Removed:
		mark, s = minus, f.Was
	}
	size := ""
	switch {
	case s.Size != nil:
		size = bytesText(*s.Size)
	case s.Major != nil && s.Minor != nil:
		size = fmt.Sprintf("%d, %d", *s.Major, *s.Minor)
	}
	text = fmt.Sprintf("%s %-9s %9s  %s", s.Mode, fmt.Sprintf("%d:%d", s.UID, s.GID), size, inPartition(f.Partition))
	switch {
	case f.Change == Renamed:
		text += name(f.RenamedFrom) + " → " + name(f.Path)
	default:
		text += name(f.Path)
	}
	if f.Change != Changed && f.Change != Renamed && s.Target != nil {
		text += " → " + name(*s.Target)
	}
	if notes := fileNotes(f, s); len(notes) > 0 {
		text += "  (" + strings.Join(notes, "; ") + ")"
	}
	if f.From != "" {
		text += "  [" + line(string(f.From)) + "]"
	}
	return mark, text
}

// fileNotes say what differs of a file, and what is unusual about it.
func fileNotes(f *File, s *FileState) []string {
	var notes []string
	note := func(format string, args ...any) { notes = append(notes, fmt.Sprintf(format, args...)) }
	if f.Private {
		note("private")
	}
	if f.Was == nil || f.Is == nil {
		if len(s.Xattrs) > 0 {
			for _, x := range s.Xattrs {
				note("%s", xattrText(x))
			}
		}
		if s.HardLink != "" {
			note("hard link to %s", name(s.HardLink))
		}
	} else {
		for _, what := range f.Differs {
			notes = append(notes, differenceNote(f, what))
		}
	}
	switch f.NoDiff {
	case noDiffUnread:
		note("unread")
	case noDiffPackages:
		note("see Packages")
	}
	return notes
}

func differenceNote(f *File, what string) string {
	was, is := f.Was, f.Is
	switch what {
	case differsType:
		return fmt.Sprintf("%s → %s", strings.ReplaceAll(was.Type, "_", " "), strings.ReplaceAll(is.Type, "_", " "))
	case differsMode:
		return fmt.Sprintf("mode %s → %s", was.Mode, is.Mode)
	case differsOwner:
		return fmt.Sprintf("owner %d:%d → %d:%d", was.UID, was.GID, is.UID, is.GID)
	case differsContent:
		switch {
		case was.Size == nil || is.Size == nil:
			return "content"
		case *was.Size == *is.Size:
			return "content, of the same size"
		}
		return "content, " + signed(*is.Size-*was.Size)
	case differsTarget:
		if was.Target == nil || is.Target == nil {
			return "target"
		}
		return fmt.Sprintf("target %s → %s", name(*was.Target), name(*is.Target))
	case differsDevice:
		return fmt.Sprintf("device %d, %d → %d, %d", *was.Major, *was.Minor, *is.Major, *is.Minor)
	case differsXattrs:
		return xattrsNote(f)
	case differsHardLinks:
		switch {
		case was.HardLink == "":
			return fmt.Sprintf("hard link to %s", name(is.HardLink))
		case is.HardLink == "":
			return fmt.Sprintf("no hard link to %s any more", name(was.HardLink))
		}
		return fmt.Sprintf("hard link to %s → %s", name(was.HardLink), name(is.HardLink))
	}
	return what
}

func xattrsNote(f *File) string {
	var parts []string
	find := func(list []Xattr, name Text) int {
		return slices.IndexFunc(list, func(x Xattr) bool { return x.Name == name })
	}
	for _, x := range f.Was.Xattrs {
		switch i := find(f.Is.Xattrs, x.Name); {
		case i < 0:
			parts = append(parts, "-"+xattrText(x))
		case f.Private:
			parts = append(parts, value(x.Name)) // perhaps
		case f.Is.Xattrs[i].Value != x.Value:
			parts = append(parts, xattrText(x)+" → "+xattrValue(f.Is.Xattrs[i]))
		}
	}
	for _, x := range f.Is.Xattrs {
		if find(f.Was.Xattrs, x.Name) < 0 {
			parts = append(parts, "+"+xattrText(x))
		}
	}
	return strings.Join(parts, ", ")
}

func xattrText(x Xattr) string {
	if x.Value == "" {
		return value(x.Name)
	}
	return value(x.Name) + "=" + xattrValue(x)
}

// xattrValue shows a value as getfattr does: as text where it is that, else in
// hexadecimal digits.
func xattrValue(x Xattr) string {
	raw, err := hex.DecodeString(x.Value)
	if x.Name == capabilityXattr {
		if text, ok := capabilities(raw); ok {
			return cut(text, 200)
		}
	}
	text := strings.TrimSuffix(string(raw), "\x00")
	switch {
	case err != nil:
		return x.Value
	case utf8.ValidString(text) && line(text) == text && text != "":
		return cut(value(Text(text)), 80)
	}
	return cut("0x"+x.Value, 80)
}

// cut shortens a text to n bytes or a little more.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + fmt.Sprintf("… (%d bytes more)", len(s)-n)
}

func (r *report) diffs() {
	folded := map[int]bool{}
	if !r.o.All {
		for _, run := range foldable(r.d.Files) {
			for i := run.first; i <= run.last; i++ {
				folded[i] = true
			}
		}
	}
	for i := range r.d.Files {
		if f := &r.d.Files[i]; f.Diff != "" && !folded[i] {
			r.diff(f)
		}
	}
}

func (r *report) diff(f *File) {
	was, is := inPartition(f.Partition)+name(f.Path), inPartition(f.Partition)+name(f.Path)
	most := mostDiffLines
	switch f.Change {
	case Added:
		was, most = "/dev/null", mostContentLines
	case Removed:
		is, most = "/dev/null", mostContentLines
	case Renamed:
		was = inPartition(f.Partition) + name(f.RenamedFrom)
	}
	r.print("\n%s\n%s\n", r.paint(bold, "--- "+was), r.paint(bold, "+++ "+is))
	all := strings.Split(strings.TrimSuffix(string(f.Diff), "\n"), "\n")
	for i, l := range all {
		if i == most && !r.o.All && len(all) > most+5 {
			r.folded = true
			r.print("%s\n", r.paint(faint, fmt.Sprintf("… %d lines more", len(all)-i)))
			return
		}
		color := ""
		switch {
		case strings.HasPrefix(l, "@@"):
			color = cyan
		case strings.HasPrefix(l, plus):
			color = green
		case strings.HasPrefix(l, minus):
			color = red
		}
		if len(l) > mostLine && !r.o.All {
			r.folded = true
			l = cut(l, mostLine)
		}
		r.print("%s\n", r.paint(color, line(l)))
	}
}

func (r *report) totals() {
	t := &r.d.Totals
	var parts []string
	tally := func(what string, t Tally, sized bool) {
		if t.count() == 0 {
			return
		}
		var kinds []string
		if t.Files > 0 {
			text := counted(t.Files, "file")
			if sized && t.Bytes > 0 {
				text += " (" + bytesText(t.Bytes) + ")"
			}
			kinds = append(kinds, text)
		}
		if t.Folders > 0 {
			kinds = append(kinds, counted(t.Folders, "folder"))
		}
		if t.Other > 0 {
			kinds = append(kinds, fmt.Sprintf("%d other", t.Other))
		}
		parts = append(parts, strings.Join(kinds, ", ")+" "+what)
	}
	tally("added", t.Added, true)
	tally("removed", t.Removed, true)
	tally("changed", t.Changed, false)
	tally("renamed", t.Renamed, false)
	if t.Touched > 0 {
		parts = append(parts, fmt.Sprintf("%s with another time only", counted(t.Touched, "file")))
	}
	if t.Growth != 0 {
		parts = append(parts, "the image "+signed(t.Growth))
	}
	if r.d.Unlisted > 0 {
		parts = append(parts, fmt.Sprintf("%d of them not listed here", r.d.Unlisted))
	}
	if len(parts) > 0 {
		r.print("\n%s\n", r.paint(bold, strings.Join(parts, "; ")))
	}
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// bytesText is a size for people: 12 B, 1.5 KiB, 12 MiB.
func bytesText(n int64) string {
	const units = "KMGTPE"
	if n < 1<<10 {
		return fmt.Sprintf("%d B", n)
	}
	size, unit := float64(n)/1024, 0
	for size >= 1023.95 && unit < len(units)-1 {
		size, unit = size/1024, unit+1
	}
	if size < 99.95 {
		return strings.TrimSuffix(fmt.Sprintf("%.1f", size), ".0") + " " + units[unit:unit+1] + "iB"
	}
	return fmt.Sprintf("%.0f %siB", size, units[unit:unit+1])
}

func signed(n int64) string {
	if n < 0 {
		return "-" + bytesText(-n)
	}
	return "+" + bytesText(n)
}

func sizes(was, is int64) string {
	return fmt.Sprintf("%s → %s (%s)", bytesText(was), bytesText(is), signed(is-was))
}
