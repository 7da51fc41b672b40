package adoption

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// Limits of a YAML inventory, beside its size.
const (
	maxNesting = 40
	maxVisits  = 200_000
)

// A yamlReader walks the nodes of an inventory, which aliases can make endless.
type yamlReader struct {
	*Inventory
	visits int
}

// readYAML reads the form that has groups as mappings.
func (inv *Inventory) readYAML(data []byte) {
	root, err := parseYAML(data)
	if err != nil {
		at, message := yamlFault(err)
		inv.problem(at, "this is no YAML: %s", message)
		return
	}
	r := &yamlReader{Inventory: inv}
	if root == nil || len(root.Content) == 0 {
		inv.problem(place{}, "is empty")
		return
	}
	r.pairs(root.Content[0], "the inventory", 0, func(name, value *yaml.Node) {
		if name.Value == "_meta" {
			inv.problem(at(name), "this is what `ansible-inventory --list` prints for Ansible itself: write it with `--list --yaml`")
			return
		}
		r.group(name, value, 0)
	})
	if len(inv.hosts) == 0 && len(inv.problems) == 0 {
		inv.problem(place{}, "names no host")
	}
}

// parseYAML is the one document of a file. The parser is foreign code that reads
// what anybody wrote.
func parseYAML(data []byte) (root *yaml.Node, err error) {
	defer func() {
		if recover() != nil {
			root, err = nil, errors.New("the parser cannot cope with it: write it more plainly")
		}
	}()
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	root = new(yaml.Node)
	if err := decoder.Decode(root); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, nil
		}
		return nil, err
	}
	return root, nil
}

var yamlLine = regexp.MustCompile(`line (\d+)`)

// yamlFault is the place that the parser's error names, and what it says beside.
func yamlFault(err error) (place, string) {
	message := strings.TrimPrefix(err.Error(), "yaml: ")
	m := yamlLine.FindStringSubmatch(message)
	if m == nil {
		return place{}, message
	}
	n, _ := strconv.Atoi(m[1])
	if _, after, found := strings.Cut(message, ": "); found {
		message = after
	}
	return place{n, 1}, message
}

func at(n *yaml.Node) place { return place{n.Line, n.Column} }

// pairs walks a mapping; nothing in its place is an empty one.
func (r *yamlReader) pairs(n *yaml.Node, what string, depth int, each func(name, value *yaml.Node)) {
	r.visits++
	switch {
	case r.visits > maxVisits:
		if r.visits == maxVisits+1 {
			r.problem(at(n), "aliases make this file endless")
		}
		return
	case depth > maxNesting:
		r.problem(at(n), "this is nested too deeply")
		return
	case n.Kind == yaml.AliasNode:
		if n.Alias != nil {
			r.pairs(n.Alias, what, depth+1, each)
		}
		return
	case n.Kind == yaml.ScalarNode && (n.Tag == "!!null" || n.Value == ""):
		return
	case n.Kind != yaml.MappingNode:
		r.problem(at(n), "%s has a mapping here: name: …", what)
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content) && len(r.problems) < maxProblems; i += 2 {
		name, value := n.Content[i], n.Content[i+1]
		if name.Kind == yaml.ScalarNode && name.Tag == "!!merge" {
			r.pairs(value, what, depth+1, each)
			continue
		}
		if name.Kind != yaml.ScalarNode {
			r.problem(at(name), "a name is expected here")
			continue
		}
		if seen[name.Value] {
			r.problem(at(name), "%s stands here twice", name.Value)
			continue
		}
		seen[name.Value] = true
		if !r.more(1, at(name)) {
			return
		}
		each(name, value)
	}
}

func (r *yamlReader) group(name, value *yaml.Node, depth int) {
	if depth > maxNesting {
		r.problem(at(name), "groups are nested too deeply")
		return
	}
	g := r.Inventory.group(name.Value, at(name))
	what := "group " + name.Value
	r.pairs(value, what, depth, func(key, value *yaml.Node) {
		switch key.Value {
		case "hosts":
			r.pairs(value, "hosts of "+what, depth, func(name, vars *yaml.Node) {
				hosts := r.host(g, name.Value, at(name))
				r.pairs(vars, "host "+name.Value, depth, func(key, value *yaml.Node) {
					r.set(hosts, key.Value, r.value(value))
				})
			})
		case "children":
			r.pairs(value, "children of "+what, depth, func(name, value *yaml.Node) {
				g.children = append(g.children, name.Value)
				r.group(name, value, depth+1)
			})
		case "vars":
			r.pairs(value, "vars of "+what, depth, func(key, value *yaml.Node) { g.vars[key.Value] = r.value(value) })
		default:
			r.problem(at(key), "%s is none of hosts, children and vars: hosts of a group stand under `hosts:`", key.Value)
		}
	})
}

// value is that of a variable; one that is a list or a mapping has no text.
func (r *yamlReader) value(n *yaml.Node) variable {
	for range maxNesting {
		if n.Kind != yaml.AliasNode || n.Alias == nil {
			break
		}
		n = n.Alias
	}
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" || strings.HasPrefix(n.Tag, "!vault") {
		return variable{"", at(n)}
	}
	return variable{fmt.Sprint(n.Value), at(n)}
}
