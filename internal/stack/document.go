package stack

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
)

// What a stack file may be at most. Large ones have some hundred lines.
const (
	maxFile  = 1 << 20
	maxNodes = 50_000  // keys and values, with aliases written out
	maxBytes = 8 << 20 // of all values, with aliases written out and variables filled in
	maxDepth = 64
	maxPath  = 2 << 10 // bytes of all keys on the way to a value
	maxFound = 200     // errors that are told of one file, and warnings
	maxSaid  = 2000    // bytes of what is told of one place
)

// A document is a stack file as a tree of maps, lists and scalars, and where
// each part of it stands.
type document struct {
	file    string // as findings name it
	tree    map[string]any
	places  map[string]place // by joined path
	nodes   int
	written int // bytes of values, with aliases written out
	made    int // bytes of values, with variables filled in
	ports   int // that are published, with ranges written out

	findings []Finding
}

type place struct{ line, column int }

// join makes one key of a path. Keys of a file may have any character but this.
func join(path []string) string { return strings.Join(path, "\x00") }

// find says something about a path, at the place of the nearest part of it that
// the file has.
func (d *document) find(warning bool, path []string, format string, args ...any) {
	f := Finding{File: d.file, Path: shown(path), Message: fmt.Sprintf(format, args...), Warning: warning}
	if len(f.Message) > maxSaid {
		f.Message = strings.ToValidUTF8(f.Message[:maxSaid], "") + "…"
	}
	for n := len(path); n >= 0; n-- {
		if p, ok := d.places[join(path[:n])]; ok {
			f.Line, f.Column = p.line, p.column
			break
		}
	}
	told := 0
	for _, other := range d.findings {
		if other.Warning == warning {
			told++
		}
	}
	switch {
	case told < maxFound:
		d.findings = append(d.findings, f)
	case told == maxFound:
		d.findings = append(d.findings, Finding{File: d.file, Warning: warning, Message: fmt.Sprintf("there are more than %d of these: mend them first", maxFound)})
	}
}

func (d *document) problem(path []string, format string, args ...any) {
	d.find(false, path, format, args...)
}

func (d *document) warn(path []string, format string, args ...any) {
	d.find(true, path, format, args...)
}

var plainKey = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]*$`)

// shown writes a path for people: services.web.ports[0].
func shown(path []string) string {
	var b strings.Builder
	for i, part := range path {
		switch _, err := strconv.Atoi(part); {
		case err == nil:
			b.WriteString("[" + part + "]")
		case !plainKey.MatchString(part):
			fmt.Fprintf(&b, "[%.60q]", part)
		case i > 0:
			b.WriteString("." + part)
		default:
			b.WriteString(part)
		}
	}
	return b.String()
}

var lineOf = regexp.MustCompile(`line (\d+)(?:, column (\d+))?:? ?`)

// parse reads a file's content. What is wrong with it is in findings; the tree
// is nil where nothing can be made of it.
func parse(file string, content []byte) *document {
	d := &document{file: file, places: map[string]place{}}
	if len(content) > maxFile {
		d.problem(nil, "it has %d bytes, more than the %d that a stack file may have: make several of it", len(content), maxFile)
		return d
	}
	var root yaml.Node
	if err := yaml.Unmarshal(content, &root); err != nil {
		d.syntax(err)
		return d
	}
	if root.Kind != yaml.DocumentNode || len(root.Content) == 0 {
		d.problem(nil, "it is empty: a stack file has services")
		return d
	}
	top := root.Content[0]
	value, err := d.value(nil, top, map[*yaml.Node]bool{}, 0)
	if err != nil {
		d.problem(nil, "%v", err)
		return d
	}
	tree, ok := value.(map[string]any)
	if !ok {
		d.findings = append(d.findings, Finding{File: file, Line: top.Line, Column: top.Column, Message: "it is no stack file: keys such as services: are expected"})
		return d
	}
	d.tree = tree
	return d
}

// syntax tells of YAML's own errors.
func (d *document) syntax(err error) {
	for _, line := range strings.Split(err.Error(), "\n") {
		text := strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), "yaml:"))
		f := Finding{File: d.file, Message: text}
		if m := lineOf.FindStringSubmatchIndex(text); m != nil {
			f.Line, _ = strconv.Atoi(text[m[2]:m[3]])
			f.Column = 1
			if m[4] >= 0 {
				f.Column, _ = strconv.Atoi(text[m[4]:m[5]])
			}
			f.Message = text[:m[0]] + text[m[1]:]
		}
		f.Message = "no YAML: " + f.Message
		d.findings = append(d.findings, f)
	}
}

var errTooMuch = errors.New("its aliases make too much of it: write less")

// value turns a node into maps, lists and scalars, with aliases and merges
// written out, and notes where everything stands. An error is of the file as a
// whole; what is wrong at one place is a finding.
func (d *document) value(path []string, n *yaml.Node, open map[*yaml.Node]bool, depth int) (any, error) {
	if d.nodes++; d.nodes > maxNodes {
		return nil, fmt.Errorf("%w: more than %d keys and values", errTooMuch, maxNodes)
	}
	if depth > maxDepth {
		return nil, fmt.Errorf("it is nested deeper than %d levels: no stack file has to be", maxDepth)
	}
	joined := join(path)
	if len(joined) > maxPath {
		return nil, fmt.Errorf("the keys on the way to line %d are longer than %d bytes together: shorten them", n.Line, maxPath)
	}
	if _, ok := d.places[joined]; !ok {
		d.places[joined] = place{n.Line, n.Column}
	}
	switch n.Kind {
	case yaml.AliasNode:
		if n.Alias == nil || open[n.Alias] {
			d.problem(path, "the alias *%s is part of itself: write out what is meant", n.Value)
			return nil, nil
		}
		return d.value(path, n.Alias, open, depth+1)
	case yaml.SequenceNode:
		open[n] = true
		defer delete(open, n)
		list := make([]any, 0, len(n.Content))
		for i, item := range n.Content {
			v, err := d.value(append(path[:len(path):len(path)], strconv.Itoa(i)), item, open, depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		return list, nil
	case yaml.MappingNode:
		open[n] = true
		defer delete(open, n)
		return d.mapping(path, n, open, depth)
	case yaml.ScalarNode:
		if d.written += len(n.Value); d.written > maxBytes {
			return nil, fmt.Errorf("%w: values of more than %d bytes", errTooMuch, maxBytes)
		}
		return d.scalar(path, n), nil
	}
	d.problem(path, "this is no value")
	return nil, nil
}

func (d *document) mapping(path []string, n *yaml.Node, open map[*yaml.Node]bool, depth int) (any, error) {
	tree := map[string]any{}
	var merges []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if k.Kind == yaml.AliasNode && k.Alias != nil {
			k = k.Alias
		}
		if k.Kind != yaml.ScalarNode {
			d.problem(path, "a key is a word, and neither a list nor a mapping (line %d)", k.Line)
			continue
		}
		if k.Tag == "!!merge" || k.Value == "<<" && k.Style == 0 {
			merges = append(merges, v)
			continue
		}
		if strings.ContainsRune(k.Value, 0) {
			d.problem(path, "the key in line %d has a character NUL: leave it out", k.Line)
			continue
		}
		if len(k.Value) > maxPath {
			d.problem(path, "the key in line %d is longer than %d bytes: shorten it", k.Line, maxPath)
			continue
		}
		at := append(path[:len(path):len(path)], k.Value)
		if first, ok := d.places[join(at)]; ok && tree[k.Value] != nil {
			d.findings = append(d.findings, Finding{File: d.file, Line: k.Line, Column: k.Column, Path: shown(at),
				Message: fmt.Sprintf("it stands here a second time, first in line %d: remove one", first.line)})
			continue
		}
		d.places[join(at)] = place{k.Line, k.Column}
		value, err := d.value(at, v, open, depth+1)
		if err != nil {
			return nil, err
		}
		tree[k.Value] = value
	}
	for _, m := range merges {
		if err := d.merge(path, tree, m, open, depth); err != nil {
			return nil, err
		}
	}
	return tree, nil
}

// merge adds what a `<<` names, as far as it is not there.
func (d *document) merge(path []string, tree map[string]any, n *yaml.Node, open map[*yaml.Node]bool, depth int) error {
	sources := []*yaml.Node{n}
	if n.Kind == yaml.SequenceNode {
		sources = n.Content
	}
	for _, source := range sources {
		value, err := d.value(path, source, open, depth+1)
		if err != nil {
			return err
		}
		from, ok := value.(map[string]any)
		if !ok {
			d.problem(path, "<< takes a mapping, or a list of them (line %d)", source.Line)
			continue
		}
		for k, v := range from {
			if _, has := tree[k]; !has {
				tree[k] = v
			}
		}
	}
	return nil
}

// scalar gives a value the type that YAML sees in it.
func (d *document) scalar(path []string, n *yaml.Node) any {
	var v any
	if err := n.Decode(&v); err != nil {
		d.problem(path, "%.40q is not what its tag %.40s says: leave the tag out", n.Value, n.Tag)
		return nil
	}
	switch v := v.(type) {
	case nil, bool, int, string:
		return v
	case int64:
		return int(v)
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			d.problem(path, "%s is no number for a stack: if it is meant as text, put it into quotes", n.Value)
			return nil
		}
		return v
	case time.Time:
		d.problem(path, "%.40s is a date to YAML: put it into quotes", n.Value)
	case uint64:
		d.problem(path, "%.40s is too large a number: if it is meant as text, put it into quotes", n.Value)
	default:
		d.problem(path, "%.40q, with its tag %.40s, is no value of a stack file: leave the tag out", n.Value, n.Tag)
	}
	return nil
}
