package stack

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unicode"
	"unicode/utf8"
)

// What other files may be at most: the swarm's own limits of secrets and
// configs, and a bound for files of variables.
const (
	maxSecret  = 500 << 10
	maxConfig  = 1000 << 10
	maxEnvFile = 1 << 20
)

// A folder is where the files lie that a stack file names. Nothing is read from
// outside of it, symbolic links included.
type folder struct {
	root *os.Root
	read int64
}

// maxRead is how much one stack file may have read in all.
const maxRead = 64 << 20

var (
	errOutside = errors.New("it is not in the stack file's folder, or below: put it there")
	errNoFile  = errors.New("there is no such file")
)

func (f *folder) content(name string, most int64) ([]byte, error) {
	if name == "" {
		return nil, errors.New("a file's name is missing: give one, or leave this out")
	}
	local := filepath.FromSlash(name)
	if !filepath.IsLocal(local) {
		return nil, errOutside
	}
	if f.root == nil {
		return nil, errNoFile
	}
	info, err := f.root.Stat(local)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, errNoFile
	case err != nil && strings.Contains(err.Error(), "escapes"):
		return nil, errOutside
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular(): // a pipe would be waited for
		return nil, errors.New("it is no file: name one")
	case info.Size() > most:
		return nil, fmt.Errorf("it has %d bytes, more than the %d that it may have", info.Size(), most)
	}
	file, err := f.root.Open(local)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, most+1))
	if err != nil {
		return nil, err
	}
	if int64(len(content)) > most {
		return nil, fmt.Errorf("it has more than the %d bytes that it may have", most)
	}
	if f.read += int64(len(content)); f.read > maxRead {
		return nil, fmt.Errorf("the stack's files have more than %d bytes together", maxRead)
	}
	return content, nil
}

// A setting is a line of a file of variables.
type setting struct {
	name, value string
	set         bool
}

// settings reads lines of NAME=value as `docker` does: as they stand, without
// quotes or variables being seen to; # begins a comment line; a name alone is
// one without a value.
func settings(content []byte) ([]setting, error) {
	var all []setting
	scanner := bufio.NewScanner(bytes.NewReader(bytes.TrimPrefix(content, []byte("\ufeff"))))
	scanner.Buffer(nil, maxEnvFile+1)
	for n := 1; scanner.Scan(); n++ {
		if !utf8.Valid(scanner.Bytes()) {
			return nil, fmt.Errorf("line %d is not UTF-8: save the file as that", n)
		}
		line := strings.TrimLeftFunc(scanner.Text(), unicode.IsSpace)
		if line == "" || line[0] == '#' {
			continue
		}
		name, value, set := strings.Cut(line, "=")
		switch {
		case name == "":
			return nil, fmt.Errorf("line %d has no name before its =: write NAME=value", n)
		case strings.ContainsAny(name, " \t"):
			return nil, fmt.Errorf("line %d: a name has no spaces: NAME=value", n)
		}
		all = append(all, setting{name, value, set})
	}
	return all, scanner.Err()
}

// ReadVariables reads an env file, as cluster.yaml names one: lines of
// NAME=value, with # for comments. Values may stand in quotes, which are not
// part of them.
func ReadVariables(file string) (map[string]string, error) {
	if info, err := os.Stat(file); err == nil && !info.Mode().IsRegular() { // a pipe would be waited for
		return nil, fmt.Errorf("%s: it is no file: name one with lines of NAME=value", file)
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxEnvFile+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if len(content) > maxEnvFile {
		return nil, fmt.Errorf("%s: it has more than %d bytes", file, maxEnvFile)
	}
	all, err := settings(content)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	values := map[string]string{}
	for _, s := range all {
		name := strings.TrimPrefix(s.name, "export ")
		switch {
		case !s.set:
			return nil, fmt.Errorf("%s: %s has no value: write %s=…, with nothing after the = for an empty one", file, name, name)
		case nameIn(name) != name:
			return nil, fmt.Errorf("%s: %q is no name of a variable: letters, digits and _", file, name)
		}
		v := strings.TrimSpace(s.value)
		if n := len(v); n >= 2 && (v[0] == '"' || v[0] == '\'') && v[n-1] == v[0] {
			v = v[1 : n-1]
		}
		values[name] = v
	}
	return values, nil
}
