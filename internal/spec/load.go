package spec

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Load reads and checks a cluster.yaml. Every error is an [*Errors] with all
// that is wrong.
func Load(path string) (*Cluster, error) {
	data, err := readLimited(path, maxFileSize+1)
	if err != nil {
		message := "cannot be read: " + reason(err)
		if errors.Is(err, fs.ErrNotExist) {
			message = "does not exist: `hatchery init` writes one"
		}
		return nil, &Errors{Problems: []Problem{{File: path, Message: message}}, cause: err}
	}
	return Parse(path, data)
}

// Parse is [Load] for a file whose content is at hand. Relative paths in it
// are relative to the folder of path.
func Parse(path string, data []byte) (*Cluster, error) {
	file, err := filepath.Abs(path)
	if err != nil {
		return nil, &Errors{Problems: []Problem{{File: path, Message: reason(err)}}, cause: err}
	}
	c := &Cluster{File: path, dir: filepath.Dir(file)}
	d := &decoder{cluster: c, at: map[string]item{}, budget: maxVisits}
	root, err := parseDocument(data)
	var syntax *syntaxProblem
	switch {
	case errors.As(err, &syntax):
		d.problems = append(d.problems, Problem{File: path, Line: syntax.line, Column: syntax.column, Message: syntax.message})
	case root == nil:
		d.problems = append(d.problems, Problem{File: path, Message: "the file is empty: `hatchery init` writes one to start from"})
	default:
		d.document(root)
	}
	if len(d.problems) > 0 {
		sortProblems(d.problems)
		e := &Errors{Problems: d.problems}
		if root != nil {
			e.rest = c
		}
		return nil, e
	}
	sortProblems(d.unbuilt)
	c.unbuilt = d.unbuilt
	return c, nil
}

// readLimited reads a regular file of at most limit bytes; what a device or a
// pipe might give is never waited for.
func readLimited(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is %s, not a file", path, fileKind(info.Mode()))
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}

// reason is an error without the path that the message names already.
func reason(err error) string {
	var pathError *fs.PathError
	if errors.As(err, &pathError) {
		return pathError.Err.Error()
	}
	return err.Error()
}

func fileKind(mode fs.FileMode) string {
	switch {
	case mode.IsRegular():
		return "a file"
	case mode.IsDir():
		return "a folder"
	case mode&fs.ModeDevice != 0:
		return "a device"
	case mode&fs.ModeNamedPipe != 0:
		return "a pipe"
	case mode&fs.ModeSocket != 0:
		return "a socket"
	}
	return "something else"
}

// resolvePath makes a path of the file absolute: ~ is the home folder, and
// relative paths are relative to the file's folder.
func (d *decoder) resolvePath(path string) (string, error) {
	if rest, ok := strings.CutPrefix(path, "~"); ok && (rest == "" || os.IsPathSeparator(rest[0])) {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("there is no home folder for ~: %w", err)
		}
		path = filepath.Join(home, rest)
	} else if ok {
		return "", errors.New("another user's home folder cannot be named with ~: write the whole path")
	}
	path = filepath.FromSlash(path)
	if !filepath.IsAbs(path) {
		path = filepath.Join(d.cluster.dir, path)
	}
	return filepath.Clean(path), nil
}
