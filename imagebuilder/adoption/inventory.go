package adoption

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"hatchery/internal/spec"
)

// What an inventory may hold at most. A cluster has 253 hosts; a company's whole
// inventory is read too.
const (
	maxInventory = 1 << 20
	maxHosts     = 10_000
)

// A place is where something stands in an inventory.
type place struct{ line, column int }

// A variable is one of a host or of a group.
type variable struct {
	text string
	at   place
}

// A host is one of an inventory.
type host struct {
	name string
	vars map[string]variable
	at   place // where it was first named
}

// A group is one of an inventory.
type group struct {
	name     string
	hosts    []string
	children []string
	vars     map[string]variable
	at       place
}

// An Inventory is one of Ansible's.
type Inventory struct {
	file   string
	hosts  map[string]*host
	groups map[string]*group
	order  []string // of the groups, as they come in the file

	problems []spec.Problem
}

// ReadInventory reads an inventory, INI or YAML. The error has all that is wrong
// with it, each with its line, as *spec.Errors.
func ReadInventory(file string) (*Inventory, error) {
	info, err := os.Stat(file)
	if err == nil && info.IsDir() {
		err = errors.New("is a folder: name the inventory's file, or make one of it all with `ansible-inventory -i FOLDER --list --yaml > inventory.yml`")
	} else if err == nil && !info.Mode().IsRegular() {
		err = errors.New("is no file")
	}
	var data []byte
	if err == nil {
		var f *os.File
		if f, err = os.Open(file); err == nil {
			data, err = io.ReadAll(io.LimitReader(f, maxInventory+1))
			f.Close()
		}
	}
	if err != nil {
		var at *os.PathError
		reason := err
		if errors.As(err, &at) {
			reason = at.Err
		}
		return nil, &spec.Errors{Problems: []spec.Problem{{File: file, Message: reason.Error()}}}
	}
	return ParseInventory(file, data)
}

// ParseInventory is ReadInventory for a file whose content is at hand.
func ParseInventory(file string, data []byte) (*Inventory, error) {
	inv := &Inventory{file: file, hosts: map[string]*host{}, groups: map[string]*group{}}
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	switch {
	case len(data) > maxInventory:
		inv.problem(place{}, "is larger than 1 MiB: this is no inventory")
	case !utf8.Valid(data) || bytes.ContainsRune(data, 0):
		inv.problem(place{}, "is no text in UTF-8")
	case bytes.HasPrefix(data, []byte("#!")):
		inv.problem(place{1, 1}, "is a program that makes an inventory, and is not run: `ansible-inventory -i %s --list --yaml > inventory.yml` writes what it says", filepath.Base(file))
	case bytes.HasPrefix(data, []byte("$ANSIBLE_VAULT")):
		inv.problem(place{1, 1}, "is encrypted: `ansible-vault view` shows it")
	case inYAML(file, data):
		inv.readYAML(data)
	default:
		inv.readINI(string(data))
	}
	if len(inv.problems) == 0 {
		inv.check()
	}
	if len(inv.problems) > 0 {
		slices.SortStableFunc(inv.problems, func(a, b spec.Problem) int {
			return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
		})
		return nil, &spec.Errors{Problems: inv.problems}
	}
	return inv, nil
}

var yamlStart = regexp.MustCompile(`^(---|\{|["']?[A-Za-z_][\w.-]*["']?\s*:(\s|$))`)

// inYAML tells the two forms apart: by the name, else by the first line that says
// something.
func inYAML(file string, data []byte) bool {
	switch strings.ToLower(filepath.Ext(file)) {
	case ".yml", ".yaml", ".json":
		return true
	case ".ini", ".cfg":
		return false
	}
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		if line != "" && line[0] != '#' && line[0] != ';' {
			return yamlStart.MatchString(line)
		}
	}
	return false
}

// maxProblems is how many mistakes are told of one inventory.
const maxProblems = 50

func (inv *Inventory) problem(at place, format string, args ...any) {
	if len(inv.problems) < maxProblems {
		inv.problems = append(inv.problems, spec.Problem{File: inv.file, Line: at.line, Column: at.column, Message: printable(fmt.Sprintf(format, args...))})
	}
}

// group is the group of that name, which is made where it is first named.
func (inv *Inventory) group(name string, at place) *group {
	g := inv.groups[name]
	if g == nil {
		g = &group{name: name, vars: map[string]variable{}, at: at}
		inv.groups[name] = g
		inv.order = append(inv.order, name)
	}
	return g
}

// host puts hosts into a group, all that the pattern stands for.
func (inv *Inventory) host(g *group, pattern string, at place) []*host {
	pattern, port := cutPort(pattern)
	names, err := expand(pattern)
	if err != nil {
		inv.problem(at, "%q: %v", pattern, err)
		return nil
	}
	var hosts []*host
	for _, name := range names {
		h := inv.hosts[name]
		if h == nil {
			if len(inv.hosts) >= maxHosts {
				inv.problem(at, "there are more than %d hosts: give the cluster an inventory of its own", maxHosts)
				return nil
			}
			h = &host{name: name, vars: map[string]variable{}, at: at}
			inv.hosts[name] = h
		}
		if port != "" {
			h.vars["ansible_port"] = variable{port, at}
		}
		if !slices.Contains(g.hosts, name) {
			g.hosts = append(g.hosts, name)
		}
		hosts = append(hosts, h)
	}
	return hosts
}

var withPort = regexp.MustCompile(`^([^:]+|.*\])?:([0-9]{1,5})$`)

// cutPort takes :22 off a host's name; not the last part of an IPv6 address.
func cutPort(pattern string) (name, port string) {
	m := withPort.FindStringSubmatch(pattern)
	if m == nil || m[1] == "" {
		return pattern, ""
	}
	return m[1], m[2]
}

// check looks at what lies between the groups.
func (inv *Inventory) check() {
	const seen, done = 1, 2
	state := map[string]int{}
	var walk func(name string)
	walk = func(name string) {
		g := inv.groups[name]
		state[name] = seen
		for _, child := range g.children {
			c := inv.groups[child]
			switch {
			case c == nil:
				inv.problem(g.at, "group %s has the child %s, which is no group of this inventory: give it a section of its own", name, child)
			case state[child] == seen:
				inv.problem(g.at, "group %s is part of itself, by way of %s: take it out of one of them", name, child)
			case state[child] == 0:
				walk(child)
			}
		}
		state[name] = done
	}
	for _, name := range inv.order {
		if state[name] == 0 {
			walk(name)
		}
	}
}

// of lists the hosts of a group and of its children, each once, in the order of
// the file. A host is a group of one.
func (inv *Inventory) of(name string) []*host {
	if g := inv.groups[name]; g == nil {
		if h := inv.hosts[name]; h != nil {
			return []*host{h}
		}
		return nil
	}
	var found []*host
	taken, been := map[string]bool{}, map[string]bool{}
	var walk func(name string)
	walk = func(name string) {
		g := inv.groups[name]
		if g == nil || been[name] {
			return
		}
		been[name] = true
		for _, h := range g.hosts {
			if !taken[h] {
				taken[h] = true
				found = append(found, inv.hosts[h])
			}
		}
		for _, c := range g.children {
			walk(c)
		}
	}
	walk(name)
	return found
}

// vars are a host's variables: its own, else those of the groups that it is in,
// of which a child's count more than its parent's.
func (inv *Inventory) vars(h *host) map[string]variable {
	depth := map[string]int{}
	// In as many rounds as groups are nested; check saw that they end.
	for range len(inv.order) {
		changed := false
		for _, name := range inv.order {
			for _, child := range inv.groups[name].children {
				if depth[child] < depth[name]+1 {
					depth[child], changed = depth[name]+1, true
				}
			}
		}
		if !changed {
			break
		}
	}
	if _, all := inv.groups["all"]; all {
		depth["all"] = -1
	}
	var in []string
	for _, name := range inv.order {
		if name == "all" || slices.Contains(inv.of(name), h) {
			in = append(in, name)
		}
	}
	slices.SortStableFunc(in, func(a, b string) int { return cmp.Or(cmp.Compare(depth[a], depth[b]), cmp.Compare(a, b)) })
	vars := map[string]variable{}
	for _, name := range in {
		for k, v := range inv.groups[name].vars {
			vars[k] = v
		}
	}
	for k, v := range h.vars {
		vars[k] = v
	}
	return vars
}
