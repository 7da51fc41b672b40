package stack

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/docker/cli/cli/compose/schema"
	"github.com/google/go-cmp/cmp"

	"hatchery/internal/testtool"
)

// A spot is a place of a stack file and its shape.
type spot struct {
	path  []string
	shape *shape
	place func(value any) map[string]any // a file with the value there, and nothing wrong beside it
}

// spots are all places that the shapes know.
func spots() []spot {
	var all []spot
	var walk func(s spot)
	walk = func(s spot) {
		all = append(all, s)
		below := func(key string, of *shape, wrap func(any) any) {
			walk(spot{append(s.path[:len(s.path):len(s.path)], key), of, func(v any) map[string]any { return s.place(wrap(v)) }})
		}
		in := func(key string) func(any) any {
			return func(v any) any {
				m := map[string]any{}
				for _, other := range s.shape.needs {
					if m[other] = any(1); s.shape.keys[other] == text {
						m[other] = "volume"
					}
				}
				m[key] = v
				return m
			}
		}
		for _, key := range slices.Sorted(maps.Keys(s.shape.keys)) {
			below(key, s.shape.keys[key], in(key))
		}
		if s.shape.others != nil {
			below("name", s.shape.others, in("name"))
		}
		if s.shape.each != nil {
			below("0", s.shape.each, func(v any) any { return []any{v} })
		}
	}
	for _, key := range slices.Sorted(maps.Keys(fileShape.keys)) {
		walk(spot{[]string{key}, fileShape.keys[key], func(v any) map[string]any { return map[string]any{key: v} }})
	}
	return all
}

// stricter are places where docker/cli takes what is an error here: keys that it
// makes nothing of, ports that are no whole numbers, a volume that is mounted
// twice.
var stricter = map[string]kind{
	"networks": aMapping, "services.name.configs[0]": aMapping, "services.name.secrets[0]": aMapping, "services.name.volumes[0].bind": aMapping,
	"services.name.volumes[0].volume": aMapping, "services.name.volumes[0].tmpfs": aMapping, "services.name.ulimits": aMapping,
	"secrets.name.external": aMapping, "configs.name.external": aMapping, "services.name.ports[0]": aNumber, "services.name.volumes": aList,
}

// laxer are keys that docker/cli reads, though its schema does not name them.
var laxer = []string{"services.name.volumes[0].volume.subpath"}

// TestShapes puts all sorts of things at each place of a stack file: what the
// shapes take, docker/cli takes, and what they refuse, it refuses.
func TestShapes(t *testing.T) {
	kinds := []any{nil, true, 1, 1.5, "text", []any{}, map[string]any{}}
	lists := []any{[]any{"a"}, []any{"a", "a"}, []any{1}}
	mappings := []any{
		map[string]any{"name": "b"}, map[string]any{"name": true}, map[string]any{"frobnicate": 1}, map[string]any{"soft": 1}, map[string]any{"no name": map[string]any{}},
	}
	scalars := []any{-1, 2.0, "", "1m30s", "start-first", "8080:80/udp", "70000", "80-79"}
	taken := 0
	for _, s := range spots() {
		one := false
		probes := slices.Clone(kinds)
		if s.shape.takes&aList != 0 {
			probes = append(probes, lists...)
		}
		if s.shape.takes&aMapping != 0 {
			probes = append(probes, mappings...)
		}
		if s.shape.check != nil && s.shape != lapse {
			probes = append(probes, scalars...)
		}
		if s.shape == lapse {
			probes = append(probes, "1m30s")
		}
		for _, probe := range probes {
			theirs := schema.Validate(s.place(copied(probe)), lastVersion)
			d := &document{places: map[string]place{}}
			tree := s.place(copied(probe))
			if !d.judge(nil, tree, fileShape) && len(d.findings) == 0 {
				t.Errorf("%s: %v: it is no good, and nobody says why", shown(s.path), probe)
			}
			ours := broken(d.findings)
			if !ours && theirs == nil {
				one = true
				taken++
			}
			switch {
			case ours == (theirs != nil):
			case theirs == nil && kindOf(probe)&stricter[shown(s.path)] != 0:
			case theirs == nil && slices.Contains(laxer, shown(s.path)):
			default:
				t.Errorf("%s: %#v: docker/cli says %v, and it is judged %v", shown(s.path), probe, theirs, d.findings)
			}
			if !ours || kindOf(probe)&(aList|aMapping) == 0 {
				continue
			}
			if err := schema.Validate(tree, lastVersion); err != nil {
				t.Errorf("%s: %#v: what is left of it, %v, is no good either: %v", shown(s.path), probe, tree, err)
			}
		}
		if !one {
			t.Errorf("%s: nothing is taken there", shown(s.path))
		}
	}
	if len(spots()) < 150 || taken < 300 {
		t.Errorf("%d places, %d things taken: it has looked at too little", len(spots()), taken)
	}
}

// TestKeys: the shapes have the keys that docker/cli has, and no others. Its
// file says so, which lies where the compiler has it from.
func TestKeys(t *testing.T) {
	out, err := exec.Command(testtool.Need(t, "go"), "list", "-m", "-f", "{{.Dir}}", "github.com/docker/cli").Output()
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(out)), "cli/compose/schema/data", "config_schema_v"+lastVersion+".json"))
	if err != nil {
		t.Fatal(err)
	}
	var root map[string]any
	if err := json.Unmarshal(content, &root); err != nil {
		t.Fatal(err)
	}
	resolved := func(in map[string]any) map[string]any {
		for range 4 {
			ref, ok := in["$ref"].(string)
			if !ok {
				break
			}
			v := root
			for _, part := range strings.Split(strings.TrimPrefix(ref, "#/"), "/") {
				v, _ = v[part].(map[string]any)
			}
			in = v
		}
		return in
	}
	seen := 0
	var walk func(path []string, in map[string]any, s *shape)
	walk = func(path []string, in map[string]any, s *shape) {
		in = resolved(in)
		forms, _ := in["oneOf"].([]any)
		for _, form := range forms {
			walk(path, form.(map[string]any), s)
		}
		if items, ok := in["items"].(map[string]any); ok && s.each != nil {
			walk(append(path[:len(path):len(path)], "0"), items, s.each)
		}
		patterns, _ := in["patternProperties"].(map[string]any)
		for pattern, of := range patterns {
			if pattern != "^x-" && s.others != nil {
				walk(append(path[:len(path):len(path)], "name"), of.(map[string]any), s.others)
			}
		}
		properties, _ := in["properties"].(map[string]any)
		if len(properties) == 0 {
			return
		}
		seen++
		var theirs []string
		for key := range properties {
			if s.refused[key] == "" {
				theirs = append(theirs, key)
			}
		}
		slices.Sort(theirs)
		ours := slices.DeleteFunc(slices.Sorted(maps.Keys(s.keys)), func(key string) bool {
			return slices.Contains(laxer, shown(append(path[:len(path):len(path)], key)))
		})
		if diff := cmp.Diff(theirs, ours); diff != "" {
			t.Errorf("%s: other keys (-docker/cli +here):\n%s", shown(path), diff)
		}
		for key, of := range properties {
			if s.keys[key] != nil {
				walk(append(path[:len(path):len(path)], key), of.(map[string]any), s.keys[key])
			}
		}
	}
	walk(nil, root, fileShape)
	if seen < 30 {
		t.Errorf("it has looked at %d mappings only", seen)
	}
}

// TestRefused: what is said to be refused docker/cli refuses, and what is said
// to be ignored it takes.
func TestRefused(t *testing.T) {
	asked := 0
	for _, s := range append(spots(), spot{nil, fileShape, func(v any) map[string]any { return v.(map[string]any) }}) {
		for key := range s.shape.refused {
			m := map[string]any{key: "x"}
			for _, other := range s.shape.needs {
				m[other] = "volume"
			}
			if err := schema.Validate(s.place(m), lastVersion); err == nil {
				t.Errorf("%s: docker/cli takes %s", shown(s.path), key)
			}
			if s.shape.keys[key] != nil {
				t.Errorf("%s: %s is both known and refused", shown(s.path), key)
			}
			asked++
		}
		for key := range s.shape.ignored {
			err := error(nil)
			for _, value := range []any{"x", true, []any{"x"}, map[string]any{"file": "x"}} {
				if err = schema.Validate(s.place(map[string]any{key: value}), lastVersion); err == nil {
					break
				}
			}
			if err != nil {
				t.Errorf("%s: docker/cli does not take %s: %v", shown(s.path), key, err)
			}
			asked++
		}
	}
	if asked < 60 {
		t.Errorf("it has asked for %d keys only", asked)
	}
}

// TestGrowth: what a small file would grow to is bounded, and so is what is told
// of it.
func TestGrowth(t *testing.T) {
	long := strings.Repeat("l", 900<<10)
	for _, c := range []struct{ summary, text, want string }{
		{"a long text, many times", "x-a: &a " + long + "\nservices: {a: {image: 'b:1', command: [" + strings.Repeat("*a,", 20000) + "]}}\n", "its aliases make too much of it"},
		{"a long key", "? " + long[:100<<10] + "\n: [" + strings.Repeat("1,", 20000) + "]\n", "longer than"},
		{"long keys", "x-" + long[:1500] + ": {" + long[:1500] + ": 1}\n", "longer than"},
		{"a long variable, many times", "services: {a: {image: 'b:1', command: [" + strings.Repeat("$LONG,", 20000) + "]}}\n", "the file's variables make it longer"},
		{"ranges of ports", "services: {a: {image: 'b:1', ports: [" + strings.Repeat("1-1000,", 20000) + "]}}\n", "the same stands in this list already"},
		{"ranges of ports, all others", "services: {a: {image: 'b:1', ports: [" + ranges(5000) + "]}}\n", "with it the file has more than"},
		{"errors", "services: {a: {image: 'b:1', command: [" + strings.Repeat("$NONE,", 20000) + "]}}\n", "there are more than 200 of these"},
		{"unknown keys", "services: {" + numbered(9000) + "}\n", "there are more than 200 of these"},
	} {
		t.Run(c.summary, func(t *testing.T) {
			_, err := load(t.Context(), "x.yml", []byte(c.text), &folder{}, Options{Name: "x", Lookup: Variables(map[string]string{"LONG": long[:500<<10]})})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("the error is %.300v", err)
			}
			if n := len(err.Error()); n > 200<<10 {
				t.Errorf("the error has %d bytes", n)
			}
		})
	}
}

func ranges(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "'%d-%d:80',", 10000+i, 10500+i)
	}
	return b.String()
}

func numbered(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "s%d: {frob: 1},", i)
	}
	return b.String()
}
