package stack

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/docker/go-connections/nat"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
	"golang.org/x/text/language"
	"golang.org/x/text/message"
)

// schema.json is docker/cli's cli/compose/schema/data/config_schema_v3.13.json,
// what `docker stack deploy` checks a file against that names no older version.
//
//go:embed schema.json
var schemaText []byte

const schemaURL = "mem:///config_schema_v3.13.json"

var stackSchema = sync.OnceValue(func() *jsonschema.Schema {
	text, err := jsonschema.UnmarshalJSON(bytes.NewReader(schemaText))
	if err != nil {
		panic(err) // it is part of the program
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	c.RegisterFormat(&jsonschema.Format{Name: "duration", Validate: func(v any) error {
		s, ok := v.(string)
		if !ok {
			return nil
		}
		if _, err := time.ParseDuration(s); err != nil {
			return errors.New("a time such as 90s or 1m30s is expected")
		}
		return nil
	}})
	c.RegisterFormat(&jsonschema.Format{Name: "ports", Validate: func(v any) error {
		var err error
		switch v := v.(type) {
		case string:
			err = portSpec(v)
		case int:
			err = portSpec(strconv.Itoa(v))
		case float64:
			err = portSpec(strconv.FormatFloat(v, 'f', -1, 64))
		}
		return err
	}})
	for _, free := range []string{"expose", "subnet_ip_address"} { // docker/cli has no such format either
		c.RegisterFormat(&jsonschema.Format{Name: free, Validate: func(any) error { return nil }})
	}
	if err := c.AddResource(schemaURL, text); err != nil {
		panic(err)
	}
	return c.MustCompile(schemaURL)
})

// maxPorts is how many ports a range may have.
const maxPorts = 1024

// portSpec checks a port in its short form. A range is bounded before it is
// written out.
func portSpec(s string) error {
	many := 0
	for _, part := range strings.FieldsFunc(s, func(r rune) bool { return r == ':' || r == '/' }) {
		low, high, ok := strings.Cut(part, "-")
		if !ok {
			continue
		}
		a, errA := strconv.Atoi(low)
		b, errB := strconv.Atoi(high)
		if errA == nil && errB == nil {
			many = max(many, b-a)
		}
	}
	if many >= maxPorts {
		return fmt.Errorf("a range of more than %d ports", maxPorts)
	}
	if _, err := nat.ParsePortSpec(s); err != nil {
		return fmt.Errorf("no port such as 8080:80 or 8080:80/udp is (%w)", err)
	}
	return nil
}

// validate holds the tree against the schema. What is not as it should be is
// told, and taken out, so that the rest can be looked at too.
func (d *document) validate() {
	for range 8 { // what is taken out may bring up what a oneOf hid
		err := stackSchema().Validate(d.tree)
		if err == nil {
			return
		}
		var invalid *jsonschema.ValidationError
		if !errors.As(err, &invalid) {
			d.problem(nil, "%v", err)
			return
		}
		before := d.removed
		d.violations(invalid)
		if d.removed == before {
			d.problem(nil, "it is no stack file as docker stack deploy takes one: %v", err)
			return
		}
	}
}

var english = message.NewPrinter(language.English)

func (d *document) violations(e *jsonschema.ValidationError) {
	path := e.InstanceLocation
	switch k := e.ErrorKind.(type) {
	case *kind.OneOf, *kind.AnyOf:
		// The form that was meant is the one of which something further in is wrong.
		for _, c := range e.Causes {
			if deepest(c) > len(path) {
				d.violations(c)
				return
			}
		}
		// A text that is no port is to be told as that, and not that a mapping
		// could stand there too.
		for _, c := range e.Causes {
			if f, ok := c.ErrorKind.(*kind.Format); ok {
				d.violation(path, nil, []string{f.Err.Error()})
				return
			}
		}
		var wanted, said []string
		for _, c := range e.Causes {
			for _, leaf := range leaves(c) {
				if t, ok := leaf.ErrorKind.(*kind.Type); ok {
					wanted = append(wanted, t.Want...)
				} else if _, sub := leaf.ErrorKind.(*kind.AdditionalProperties); sub {
					d.violations(leaf)
					return
				} else {
					said = append(said, said1(leaf))
				}
			}
		}
		d.violation(path, wanted, said)
	case *kind.AdditionalProperties:
		for _, key := range k.Properties {
			at := append(slices.Clone(path), key)
			d.unknown(at)
			d.remove(at)
		}
	case *kind.Type:
		d.violation(path, k.Want, nil)
	default:
		if len(e.Causes) > 0 {
			for _, c := range e.Causes {
				d.violations(c)
			}
			return
		}
		if r, ok := e.ErrorKind.(*kind.Required); ok {
			d.problem(path, "it lacks %s", strings.Join(r.Missing, ", "))
			d.remove(path)
			return
		}
		d.violation(path, nil, []string{said1(e)})
	}
}

func said1(e *jsonschema.ValidationError) string {
	if f, ok := e.ErrorKind.(*kind.Format); ok && f.Err != nil {
		return f.Err.Error()
	}
	return e.ErrorKind.LocalizedString(english)
}

func (d *document) violation(path, wanted, said []string) {
	defer d.remove(path)
	value, there := d.at(path)
	if (!there || value == nil) && d.told(path) {
		return // an unset variable or such, which has been told
	}
	if text := swarmWay(path, value); text != "" {
		d.problem(path, "%s", text)
		return
	}
	slices.Sort(wanted) // array, boolean, integer, null …
	wanted = slices.Compact(wanted)
	names := map[string]string{"object": "a mapping", "array": "a list", "string": "text", "number": "a number", "integer": "a whole number", "boolean": "true or false", "null": "nothing"}
	for i, w := range wanted {
		if n := names[w]; n != "" {
			wanted[i] = n
		}
	}
	slices.Sort(said)
	said = slices.Compact(said)
	switch {
	case len(wanted) > 0 && len(said) == 0:
		d.problem(path, "%s is expected here", strings.Join(wanted, ", or "))
	case len(wanted) > 0:
		d.problem(path, "%s is expected here (%s)", strings.Join(wanted, ", or "), strings.Join(said, "; "))
	default:
		d.problem(path, "%s", strings.Join(said, "; "))
	}
}

// told says whether a finding is about this very path.
func (d *document) told(path []string) bool {
	return slices.ContainsFunc(d.findings, func(f Finding) bool { return f.Path == shown(path) })
}

func deepest(e *jsonschema.ValidationError) int {
	n := len(e.InstanceLocation)
	if a, ok := e.ErrorKind.(*kind.AdditionalProperties); ok && len(a.Properties) > 0 {
		n++
	}
	for _, c := range e.Causes {
		n = max(n, deepest(c))
	}
	return n
}

func leaves(e *jsonschema.ValidationError) []*jsonschema.ValidationError {
	if len(e.Causes) == 0 {
		return []*jsonschema.ValidationError{e}
	}
	var all []*jsonschema.ValidationError
	for _, c := range e.Causes {
		all = append(all, leaves(c)...)
	}
	return all
}

// at is the value of a path.
func (d *document) at(path []string) (any, bool) {
	var v any = d.tree
	for _, part := range path {
		switch in := v.(type) {
		case map[string]any:
			next, ok := in[part]
			if !ok {
				return nil, false
			}
			v = next
		case []any:
			i, err := strconv.Atoi(part)
			if err != nil || i < 0 || i >= len(in) {
				return nil, false
			}
			v = in[i]
		default:
			return nil, false
		}
	}
	return v, true
}

// remove takes a path out of the tree. What stands in a list takes the list
// with it, since the places of what follows would be wrong.
func (d *document) remove(path []string) {
	for n := len(path); n > 0; n-- {
		parent, ok := d.at(path[:n-1])
		if !ok {
			return
		}
		if m, ok := parent.(map[string]any); ok {
			delete(m, path[n-1])
			d.removed++
			return
		}
	}
	d.tree = map[string]any{}
}
