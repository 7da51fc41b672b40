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
	// maxNamed is how often ranges and aliases may name hosts and their variables all
	// in all: a line of a thousand variables for ten thousand hosts is ten million.
	maxNamed = 500_000
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

	groups []*group // that it is in, once somebody asked
}

// A group is one of an inventory.
type group struct {
	name     string
	hosts    []string
	in       map[string]bool // the hosts
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
	named  int      // how often hosts and their variables were named

	parents map[string][]string // of groups, and of hosts the groups that they are in; check makes it
	depth   map[string]int      // of groups, from the top

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
		inv.problem(place{1, 1}, "is a program that makes an inventory, and is not run: `ansible-inventory -i %s --list --yaml > inventory.yml` writes what it says", argument(filepath.Base(file)))
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
		g = &group{name: name, in: map[string]bool{}, vars: map[string]variable{}, at: at}
		inv.groups[name] = g
		inv.order = append(inv.order, name)
	}
	return g
}

// host puts hosts into a group, all that the pattern stands for.
func (inv *Inventory) host(g *group, pattern string, at place) []*host {
	if inv.named > maxNamed {
		return nil // which was said
	}
	pattern, port := cutPort(pattern)
	names, err := expand(pattern)
	if err != nil {
		inv.problem(at, "%q: %v", pattern, err)
		return nil
	}
	if !inv.more(len(names), at) {
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
		if !g.in[name] {
			g.in[name] = true
			g.hosts = append(g.hosts, name)
		}
		hosts = append(hosts, h)
	}
	return hosts
}

// more counts what is named, and says whether there is room for it.
func (inv *Inventory) more(n int, at place) bool {
	before := inv.named
	inv.named += n
	if inv.named > maxNamed && before <= maxNamed {
		inv.problem(at, "its ranges and aliases stand for more than %d hosts and variables: give the cluster an inventory of its own", maxNamed)
	}
	return inv.named <= maxNamed
}

// set gives hosts a variable.
func (inv *Inventory) set(hosts []*host, name string, v variable) {
	if !inv.more(len(hosts), v.at) {
		return
	}
	for _, h := range hosts {
		h.vars[name] = v
	}
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
	if len(inv.problems) == 0 {
		inv.relate()
	}
}

// relate finds out who is in what, and how deep groups are nested; check saw that
// that ends. What a group of groups says counts less than what the groups say.
func (inv *Inventory) relate() {
	inv.parents, inv.depth = map[string][]string{}, map[string]int{}
	for _, name := range inv.order {
		for _, child := range inv.groups[name].children {
			inv.parents["group "+child] = append(inv.parents["group "+child], name)
		}
		for _, h := range inv.groups[name].hosts {
			inv.parents["host "+h] = append(inv.parents["host "+h], name)
		}
	}
	var measure func(name string) int
	measure = func(name string) int {
		if d, known := inv.depth[name]; known {
			return d
		}
		d := 0
		for _, parent := range inv.parents["group "+name] {
			d = max(d, measure(parent)+1)
		}
		inv.depth[name] = d
		return d
	}
	for _, name := range inv.order {
		measure(name)
	}
	if _, all := inv.groups["all"]; all {
		inv.depth["all"] = -1
	}
}

// above are the groups that lead to one of these, with those themselves.
func (inv *Inventory) above(groups []string) []string {
	been := map[string]bool{}
	var found []string
	for open := slices.Clone(groups); len(open) > 0; {
		name := open[len(open)-1]
		open = open[:len(open)-1]
		if been[name] {
			continue
		}
		been[name] = true
		found = append(found, name)
		open = append(open, inv.parents["group "+name]...)
	}
	return found
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

// groupsOf are the groups that a host is in, what counts most first: a child's
// variables count more than its parent's.
func (inv *Inventory) groupsOf(h *host) []*group {
	if h.groups != nil {
		return h.groups
	}
	names := inv.above(inv.parents["host "+h.name])
	if _, all := inv.groups["all"]; all && !slices.Contains(names, "all") {
		names = append(names, "all")
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(cmp.Compare(inv.depth[b], inv.depth[a]), cmp.Compare(b, a)) })
	h.groups = []*group{}
	for _, name := range names {
		h.groups = append(h.groups, inv.groups[name])
	}
	return h.groups
}

// variable is one of a host's: its own, else that of the groups that it is in.
func (inv *Inventory) variable(h *host, name string) (variable, bool) {
	if v, there := h.vars[name]; there {
		return v, true
	}
	for _, g := range inv.groupsOf(h) {
		if v, there := g.vars[name]; there {
			return v, true
		}
	}
	return variable{}, false
}
