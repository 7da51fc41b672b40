package stack

import (
	"encoding/json"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// A kind is what YAML sees in a value. Kinds are added up to sets.
type kind uint8

const (
	aList kind = 1 << iota
	aTruth
	aWhole
	nothing
	aNumber // whole ones too
	aMapping
	aText

	anything = aList | aTruth | aWhole | nothing | aNumber | aMapping | aText
)

// kinds are the kinds in the order in which they are told.
var kinds = []struct {
	kind kind
	name string
}{
	{aList, "a list"}, {aTruth, "true or false"}, {aWhole, "a whole number"}, {nothing, "nothing"}, {aNumber, "a number"}, {aMapping, "a mapping"}, {aText, "text"},
}

// String names the kinds of a set: a list, or a mapping.
func (k kind) String() string {
	var names []string
	for _, each := range kinds {
		if k&each.kind != 0 {
			names = append(names, each.name)
		}
	}
	return strings.Join(names, ", or ")
}

// kindOf is the kinds that a value of the tree is of.
func kindOf(value any) kind {
	switch value := value.(type) {
	case []any:
		return aList
	case map[string]any:
		return aMapping
	case bool:
		return aTruth
	case string:
		return aText
	case int:
		return aWhole | aNumber
	case float64:
		if value == math.Trunc(value) {
			return aWhole | aNumber
		}
		return aNumber
	}
	return nothing
}

// A shape is what may stand at a place of a stack file.
type shape struct {
	takes kind

	each   *shape // an item of a list; nil stands for anything
	unique bool   // none of them twice

	keys    map[string]*shape // of a mapping
	others  *shape            // its keys beside those, where there can be any
	called  *regexp.Regexp    // what such keys look like; nil stands for anything
	own     bool              // keys that begin with x- are the file's own
	needs   []string
	ignored map[string]string // keys that docker stack deploy makes nothing of, with what to do instead
	refused map[string]string // keys that it does not take, with what to do instead

	check func(*document, any) error // a closer look at what is neither a list nor a mapping
}

// judge holds a value against a shape. What is not as it should be is told, and
// taken out, so that the rest can be looked at too: false says that the value is
// no good itself.
func (d *document) judge(path []string, value any, s *shape) bool {
	if kindOf(value)&s.takes == 0 {
		switch {
		case value == nil && d.told(path): // an unset variable or such
		case swarmWay(path, value) != "":
			d.problem(path, "%s", swarmWay(path, value))
		default:
			d.problem(path, "%s is expected here", s.takes)
		}
		return false
	}
	if s.takes == anything {
		return true
	}
	switch value := value.(type) {
	case []any:
		return d.judgeList(path, value, s)
	case map[string]any:
		return d.judgeMapping(path, value, s)
	}
	if s.check != nil {
		if err := s.check(d, value); err != nil {
			d.problem(path, "%v", err)
			return false
		}
	}
	return true
}

// judgeList judges all items. One that is no good makes the list no good, since
// the places of what follows would be wrong without it.
func (d *document) judgeList(path []string, list []any, s *shape) bool {
	good := true
	seen := map[string]int{}
	for i, item := range list {
		at := append(path[:len(path):len(path)], strconv.Itoa(i))
		if s.each != nil && !d.judge(at, item, s.each) {
			good = false
			continue
		}
		if !s.unique {
			continue
		}
		text, err := json.Marshal(item) // mappings are in the order of their keys
		if err != nil {
			d.problem(at, "%v", err)
			good = false
			continue
		}
		if first, twice := seen[string(text)]; twice {
			d.problem(at, "the same stands in this list already, as number %d: remove one", first+1)
			good = false
			continue
		}
		seen[string(text)] = i
	}
	return good
}

func (d *document) judgeMapping(path []string, m map[string]any, s *shape) bool {
	for _, key := range slices.Sorted(maps.Keys(m)) {
		at := append(path[:len(path):len(path)], key)
		of, known := s.keys[key]
		switch {
		case known:
		case s.refused[key] != "":
			d.unknown(at, s)
			delete(m, key)
			continue
		case s.own && strings.HasPrefix(key, "x-"):
			continue
		case s.others != nil && (s.called == nil || s.called.MatchString(key)):
			of = s.others
		case s.ignored[key] != "":
			d.warn(at, "swarm mode ignores it: %s", s.ignored[key])
			delete(m, key)
			continue
		default:
			d.unknown(at, s)
			delete(m, key)
			continue
		}
		if !d.judge(at, m[key], of) {
			delete(m, key)
		} else if text := s.ignored[key]; text != "" {
			d.warn(at, "swarm mode ignores it: %s", text)
			delete(m, key)
		}
	}
	good := true
	for _, key := range s.needs {
		if _, has := m[key]; has {
			continue
		}
		good = false
		if !d.told(append(path[:len(path):len(path)], key)) {
			d.problem(path, "it lacks %s: add it", key)
		}
	}
	return good
}

// unknown tells of a key that a mapping does not have.
func (d *document) unknown(path []string, s *shape) {
	key := path[len(path)-1]
	switch near := nearest(key, slices.Sorted(maps.Keys(s.keys))); {
	case s.refused[key] != "":
		d.problem(path, "`docker stack deploy` refuses it: %s", s.refused[key])
	case s.others != nil:
		d.problem(path, "it is no name that can stand here: %s", namesAre(s.called))
	case near != "":
		d.problem(path, "there is no such key: is %s meant?", near)
	case s.own:
		d.problem(path, "there is no such key: leave it out (keys of your own begin with x-)")
	default:
		d.problem(path, "there is no such key: leave it out (there are %s)", strings.Join(slices.Sorted(maps.Keys(s.keys)), ", "))
	}
}

func namesAre(pattern *regexp.Regexp) string {
	if pattern == smallLetters {
		return "small letters are, such as nofile"
	}
	return "letters, digits, _, - and . are"
}

// told says whether a finding is about this very path.
func (d *document) told(path []string) bool {
	text := shown(path)
	return slices.ContainsFunc(d.findings, func(f Finding) bool { return f.Path == text })
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

// swarmWay says how swarm mode has something that Docker Compose has in another
// way; "" for all else.
func swarmWay(path []string, value any) string {
	if len(path) != 3 || path[0] != "services" || kindOf(value) != aMapping {
		return ""
	}
	switch path[2] {
	case "depends_on":
		return "swarm mode has no conditions, and starts services in any order: let the program wait for what it needs, and leave this out"
	case "env_file":
		return "a file's name, or a list of them, is expected"
	}
	return ""
}
