package stack

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/tree"
)

// Lookup gives a variable's value, and whether it is set.
type Lookup func(name string) (value string, set bool)

// Variables is the Lookup of a map.
func Variables(values map[string]string) Lookup {
	return func(name string) (string, bool) {
		v, ok := values[name]
		return v, ok
	}
}

// maxValue bounds what a value grows to by its variables.
const maxValue = 1 << 20

// interpolate fills variables in: $VAR and ${VAR}, with :- and - for a default,
// :? and ? for an error's words, :+ and + for what stands there if it is set,
// and $$ for a dollar.
func (d *document) interpolate(lookup Lookup) {
	for key, value := range d.tree {
		if strings.HasPrefix(key, "x-") || key == "version" {
			continue
		}
		d.tree[key] = d.filled([]string{key}, value, lookup)
	}
}

func (d *document) filled(path []string, value any, lookup Lookup) any {
	at := func(part string) []string { return append(path[:len(path):len(path)], part) }
	switch value := value.(type) {
	case map[string]any:
		out := make(map[string]any, len(value))
		for k, v := range value {
			out[k] = d.filled(at(k), v, lookup)
		}
		return out
	case []any:
		out := make([]any, len(value))
		for i, v := range value {
			out[i] = d.filled(at(strconv.Itoa(i)), v, lookup)
		}
		return out
	case string:
		if d.made > maxBytes {
			return nil // it has been told
		}
		s := &substitution{lookup: lookup}
		text := s.text(value, 0)
		if d.made += s.made; d.made > maxBytes && len(s.faults) == 0 {
			s.fault("the file's variables make it longer than %d bytes in all: write less", maxBytes)
		}
		if len(s.faults) > 0 {
			for _, fault := range s.faults {
				d.problem(path, "%s", fault)
			}
			return nil
		}
		cast := castOf(path)
		if cast == nil {
			return text
		}
		v, err := cast(text)
		if err != nil {
			d.problem(path, "%.60q: %v", text, err)
			return nil
		}
		return v
	}
	return value
}

// A substitution is one value, being filled in.
type substitution struct {
	lookup Lookup
	made   int
	faults []string
}

const maxNested = 16

func (s *substitution) fault(format string, args ...any) string {
	s.faults = append(s.faults, fmt.Sprintf(format, args...))
	return ""
}

func (s *substitution) text(in string, depth int) string {
	if depth > maxNested {
		return s.fault("variables stand within variables more than %d times: write it more simply", maxNested)
	}
	var b strings.Builder
	for {
		plain, rest, found := strings.Cut(in, "$")
		b.WriteString(plain)
		if s.made += len(plain); s.made > maxValue {
			return s.fault("its variables make it longer than %d bytes: write less", maxValue)
		}
		if !found {
			return b.String()
		}
		switch {
		case strings.HasPrefix(rest, "$"):
			b.WriteByte('$')
			in = rest[1:]
		case strings.HasPrefix(rest, "{"):
			end := closing(rest)
			if end < 0 {
				return s.fault("%.40q has no closing brace; a dollar that is meant as such is written $$", "$"+rest)
			}
			b.WriteString(s.braced(rest[1:end], depth))
			in = rest[end+1:]
		default:
			name := nameIn(rest)
			if name == "" {
				return s.fault("%.40q is no variable; a dollar that is meant as such is written $$", "$"+rest)
			}
			b.WriteString(s.plain(name))
			in = rest[len(name):]
		}
		if len(s.faults) > 20 {
			return ""
		}
	}
}

// closing finds the brace that ends the one that s begins with.
func closing(s string) int {
	depth := 0
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '{' && (i == 0 || s[i-1] == '$'):
			depth++
		case s[i] == '}':
			if depth--; depth == 0 {
				return i
			}
		}
	}
	return -1
}

func nameIn(s string) string {
	for i, c := range []byte(s) {
		letter := c == '_' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return s[:i]
		}
	}
	return s
}

func (s *substitution) plain(name string) string {
	value, set := s.lookup(name)
	if !set {
		return s.fault("the variable %s is not set: set it in the env file, or give it a default, ${%s:-…}", name, name)
	}
	s.made += len(value)
	return value
}

func (s *substitution) braced(in string, depth int) string {
	name := nameIn(in)
	operator, word := in[len(name):], ""
	if name == "" {
		return s.fault("${%.40s} names no variable; a dollar that is meant as such is written $$", in)
	}
	if operator == "" {
		return s.plain(name)
	}
	for _, o := range []string{":-", "-", ":?", "?", ":+", "+"} {
		if strings.HasPrefix(operator, o) {
			operator, word = o, operator[len(o):]
			break
		}
	}
	value, set := s.lookup(name)
	there := set && (value != "" || !strings.HasPrefix(operator, ":"))
	switch operator {
	case ":-", "-":
		if !there {
			return s.text(word, depth+1)
		}
	case ":+", "+":
		if there {
			return s.text(word, depth+1)
		}
		return ""
	case ":?", "?":
		if !there && word != "" {
			return s.fault("the variable %s is not set: %s", name, word)
		} else if !there {
			return s.fault("the variable %s is not set: set it in the env file", name)
		}
	default:
		return s.fault("${%.40s} is no variable: ${NAME}, ${NAME:-default}, ${NAME:?what is missing} and ${NAME:+instead} are", in)
	}
	s.made += len(value)
	return value
}

// A cast makes of a text what a place takes: where a variable, or quotes, stand
// for a number or a truth.
type cast func(string) (any, error)

func castOf(path []string) cast {
	for _, c := range casts {
		if tree.NewPath(path...).Matches(c.path) {
			return c.cast
		}
	}
	return nil
}

// casts are the places where docker/cli makes of a text what is taken there.
var casts = func() (list []struct {
	path tree.Path
	cast cast
}) {
	add := func(c cast, paths ...string) {
		for _, p := range paths {
			list = append(list, struct {
				path tree.Path
				cast cast
			}{tree.NewPath(strings.Split(p, ".")...), c})
		}
	}
	service := func(keys ...string) []string {
		for i, k := range keys {
			keys[i] = "services.*." + k
		}
		return keys
	}
	add(toInt, service("configs.*.mode", "secrets.*.mode", "healthcheck.retries", "deploy.replicas",
		"deploy.update_config.parallelism", "deploy.rollback_config.parallelism", "deploy.restart_policy.max_attempts",
		"deploy.placement.max_replicas_per_node", "ports.*.target", "ports.*.published", "ulimits.*", "ulimits.*.hard",
		"ulimits.*.soft", "oom_score_adj")...)
	add(toFloat, service("deploy.update_config.max_failure_ratio", "deploy.rollback_config.max_failure_ratio")...)
	add(toBool, service("healthcheck.disable", "privileged", "read_only", "stdin_open", "tty", "init",
		"volumes.*.read_only", "volumes.*.volume.nocopy")...)
	add(toBool, "networks.*.external", "networks.*.internal", "networks.*.attachable", "volumes.*.external", "secrets.*.external", "configs.*.external")
	return list
}()

func toInt(s string) (any, error) {
	v, err := strconv.Atoi(s)
	if err != nil {
		return nil, errors.New("a whole number is expected")
	}
	return v, nil
}

func toFloat(s string) (any, error) {
	v, err := strconv.ParseFloat(s, 64)
	if err != nil || v != v || v > 1e300 || v < -1e300 {
		return nil, errors.New("a number is expected")
	}
	return v, nil
}

func toBool(s string) (any, error) {
	switch strings.ToLower(s) {
	case "y", "yes", "true", "on":
		return true, nil
	case "n", "no", "false", "off":
		return false, nil
	}
	return nil, errors.New("true or false is expected")
}
