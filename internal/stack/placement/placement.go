// Package placement is where the swarm's scheduler may put a service's tasks:
// constraints as swarmkit reads and judges them (manager/constraint,
// v2: node.id, .hostname, .ip, .role, .platform.os, .platform.arch, .labels.x
// and engine.labels.x, compared with == or !=, without regard to case).
package placement

import (
	"cmp"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// The roles of nodes.
const (
	Manager = "manager"
	Worker  = "worker"
)

// LabelArch is the label by which a node says what programs may be built for on
// it: armv6, armv7, arm64, amd64.
const LabelArch = "hatchery.arch"

// A Node is what constraints ask of one. What is not known yet, as ID is before
// a node has joined, is "": a constraint on it might hold.
type Node struct {
	Name         string // for people: p1, controller
	ID           string
	Hostname     string
	Role         string
	Addr         netip.Addr
	OS           string // "" stands for linux
	Machine      string // as uname has it: armv6l, armv7l, aarch64, x86_64
	Arch         string // armv6, armv7, arm64, amd64; "" takes it from Machine
	Labels       map[string]string
	EngineLabels map[string]string
	Availability string // active, pause, drain; "" stands for active
}

// String is the node's name.
func (n Node) String() string {
	for _, name := range []string{n.Name, n.Hostname, n.ID} {
		if name != "" {
			return name
		}
	}
	return "a node"
}

// Architecture is what programs the node runs: armv6, armv7, arm64, amd64, or
// "" where nothing says so.
func (n Node) Architecture() string {
	switch {
	case n.Arch != "":
		return n.Arch
	case n.Labels[LabelArch] != "":
		return n.Labels[LabelArch]
	}
	switch n.Machine {
	case "armv6l":
		return "armv6"
	case "armv7l", "armv8l":
		return "armv7"
	case "aarch64", "arm64":
		return "arm64"
	case "x86_64", "amd64":
		return "amd64"
	}
	return ""
}

// A Constraint is one condition of a service.
type Constraint struct {
	Key   string
	Not   bool
	Value string
}

var key = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]+$`)

// valued says whether a constraint can have a text as its value: letters and
// digits, white space, and the signs that the swarm's patterns had once.
func valued(text string) bool {
	const signs = `:-_.*()?+[]\^$|/` + " \t\n\f\r"
	return text != "" && !strings.ContainsFunc(text, func(r rune) bool {
		letter := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
		return !letter && !strings.ContainsRune(signs, r)
	})
}

// Parse reads a constraint, such as node.labels.disk == ssd. What the swarm
// takes but never holds, an unknown key, is an error too.
func Parse(text string) (Constraint, error) {
	for i, operator := range []string{"==", "!="} {
		name, value, found := strings.Cut(text, operator)
		if !found {
			continue
		}
		c := Constraint{Key: strings.TrimSpace(name), Value: strings.TrimSpace(value), Not: i == 1}
		switch {
		case !key.MatchString(c.Key):
			return c, fmt.Errorf("%q is no key of a constraint: there are %s", c.Key, strings.Join(keys, ", "))
		case !valued(c.Value):
			return c, fmt.Errorf("%q is no value that a constraint takes: letters, digits and :-_./ are (quotes are not part of it)", c.Value)
		case !c.known():
			return c, fmt.Errorf("no node ever meets a constraint on %q: there are %s", c.Key, strings.Join(keys, ", "))
		}
		return c, nil
	}
	return Constraint{}, fmt.Errorf("%q is no constraint such as node.labels.disk == ssd or node.role != manager", text)
}

var keys = []string{"node.id", "node.hostname", "node.ip", "node.role", "node.platform.os", "node.platform.arch", "node.labels.LABEL", "engine.labels.LABEL"}

func (c Constraint) known() bool {
	k := strings.ToLower(c.Key)
	return slices.Contains(keys[:6], k) || label(c.Key, nodeLabels) != "" || label(c.Key, engineLabels) != ""
}

const (
	nodeLabels   = "node.labels."
	engineLabels = "engine.labels."
)

// label is the label that a key is about, with its case.
func label(key, prefix string) string {
	if len(key) > len(prefix) && strings.EqualFold(key[:len(prefix)], prefix) {
		return key[len(prefix):]
	}
	return ""
}

// String writes the constraint as a stack file has it.
func (c Constraint) String() string {
	if c.Not {
		return c.Key + " != " + c.Value
	}
	return c.Key + " == " + c.Value
}

// Holds says whether a node meets the constraint, as far as it is known.
func (c Constraint) Holds(n Node) bool {
	compare := func(value string) bool { return strings.EqualFold(value, c.Value) != c.Not }
	if l := label(c.Key, nodeLabels); l != "" {
		return compare(n.Labels[l])
	}
	if l := label(c.Key, engineLabels); l != "" {
		return compare(n.EngineLabels[l])
	}
	open := func(value string) bool { return value == "" || compare(value) }
	switch strings.ToLower(c.Key) {
	case "node.id":
		return open(n.ID)
	case "node.hostname":
		return open(n.Hostname)
	case "node.role":
		return open(n.Role)
	case "node.platform.os":
		return compare(cmp.Or(n.OS, "linux"))
	case "node.platform.arch":
		return open(n.Machine)
	case "node.ip":
		if !n.Addr.IsValid() {
			return true
		}
		if ip, err := netip.ParseAddr(c.Value); err == nil {
			return (ip.Unmap() == n.Addr.Unmap()) != c.Not
		}
		if net, err := netip.ParsePrefix(c.Value); err == nil {
			return net.Contains(n.Addr.Unmap()) != c.Not
		}
	}
	return false
}

// ParseAll reads a service's constraints; those that are none are left out and
// told.
func ParseAll(texts []string) (constraints []Constraint, errs []error) {
	errs = make([]error, len(texts))
	for i, t := range texts {
		c, err := Parse(t)
		if errs[i] = err; err == nil {
			constraints = append(constraints, c)
		}
	}
	return constraints, errs
}

// Candidates are the nodes that meet all constraints, whatever their
// availability, which changes.
func Candidates(constraints []Constraint, nodes []Node) []Node {
	var fit []Node
	for _, n := range nodes {
		if !slices.ContainsFunc(constraints, func(c Constraint) bool { return !c.Holds(n) }) {
			fit = append(fit, n)
		}
	}
	return fit
}
