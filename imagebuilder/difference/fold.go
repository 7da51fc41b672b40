package difference

import (
	"fmt"
	"strings"
)

// mostAlikeLines is how many lines of one kind in one place are shown one by
// one; what is more is summed up.
const mostAlikeLines = 24

// A run is files that follow each other and are summed up in one line.
type run struct {
	first, last int
	folder      string
	below       bool // at any depth; else directly in the folder
}

// foldable finds what to sum up: all that is in a folder which came or went as
// a whole, if that is much, and many files that came to or went from one
// folder; and what was merely renamed with its folder, however little.
func foldable(files []File) []run {
	var runs []run
	for i := 0; i < len(files); {
		f := &files[i]
		whole := isFolder(f)
		if end := insideRun(files, i); whole && (f.Change == Renamed || end-i-1 > mostAlikeLines) && end > i+1 {
			runs = append(runs, run{i + 1, end - 1, string(f.Path), true})
			i = end
			continue
		}
		if end := siblingRun(files, i); end-i > mostAlikeLines {
			runs = append(runs, run{i, end - 1, parent(string(f.Path)), false})
			i = end
			continue
		}
		i++
	}
	return runs
}

func isFolder(f *File) bool {
	s := f.Is
	if s == nil {
		s = f.Was
	}
	return s.Type == typeFolder && f.Change != Changed
}

// insideRun gives where the files end that came, went or moved with folder i
// and have nothing more to tell.
func insideRun(files []File, i int) int {
	folder := &files[i]
	end := i + 1
	for end < len(files) && files[end].Partition == folder.Partition && below(string(files[end].Path), string(folder.Path)) &&
		files[end].Change == folder.Change && (folder.Change != Renamed || files[end].With && len(files[end].Differs) == 0) {
		end++
	}
	if folder.Change != Renamed && end < len(files) && files[end].Partition == folder.Partition && below(string(files[end].Path), string(folder.Path)) {
		return i + 1 // not uniform
	}
	return end
}

// siblingRun gives where the files end that came to or went from one folder.
func siblingRun(files []File, i int) int {
	f := &files[i]
	if f.Change != Added && f.Change != Removed {
		return i
	}
	dir := parent(string(f.Path))
	end := i
	for end < len(files) && files[end].Change == f.Change && files[end].Partition == f.Partition &&
		!isFolder(&files[end]) && parent(string(files[end].Path)) == dir {
		end++
	}
	return end
}

func (r *report) files() {
	files := r.d.Files
	if len(files) == 0 {
		return
	}
	r.heading("Files")
	var runs []run
	if !r.o.All {
		runs = foldable(files)
	}
	for i := 0; i < len(files); i++ {
		if len(runs) > 0 && runs[0].first == i {
			r.run(runs[0])
			i, runs = runs[0].last, runs[1:]
			continue
		}
		mark, text := fileLine(&files[i])
		r.item(mark, "%s", text)
	}
}

// run sums up.
func (r *report) run(run run) {
	r.folded = true
	var tally Tally
	private := 0
	for _, f := range r.d.Files[run.first : run.last+1] {
		s := f.Is
		if s == nil {
			s = f.Was
		}
		switch s.Type {
		case typeFile:
			tally.Files++
		case typeFolder:
			tally.Folders++
		default:
			tally.Other++
		}
		if s.Size != nil {
			tally.Bytes += *s.Size
		}
		if f.Private {
			private++
		}
	}
	first := &r.d.Files[run.first]
	mark, how := tilde, " moved with it"
	switch first.Change {
	case Added:
		mark, how = plus, ""
	case Removed:
		mark, how = minus, ""
	}
	var parts []string
	if tally.Files > 0 {
		parts = append(parts, counted(tally.Files, "file"))
	}
	if tally.Folders > 0 {
		parts = append(parts, counted(tally.Folders, "folder"))
	}
	if tally.Other > 0 {
		parts = append(parts, fmt.Sprintf("%d other", tally.Other))
	}
	where := "in"
	if run.below {
		where = "below"
	}
	notes := ""
	if tally.Bytes > 0 {
		notes = bytesText(tally.Bytes)
	}
	if private > 0 {
		if notes != "" {
			notes += "; "
		}
		notes += fmt.Sprintf("%d private", private)
	}
	if notes != "" {
		notes = "  (" + notes + ")"
	}
	r.item(mark, "%s%s %s %s%s%s", inPartition(first.Partition), strings.Join(parts, ", "), where, name(Text(run.folder)), how, notes)
}
