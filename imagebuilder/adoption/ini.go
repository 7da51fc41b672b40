package adoption

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Ansible's own patterns (lib/ansible/plugins/inventory/ini.py).
var (
	sectionPattern = regexp.MustCompile(`^\[([^:\]\s]+)(?::(\w+))?\]\s*(?:#.*)?$`)
	groupPattern   = regexp.MustCompile(`^([^:\]\s]+)\s*(?:#.*)?$`)
)

// readINI reads the form that inventories mostly have.
func (inv *Inventory) readINI(text string) {
	g, kind := inv.group("ungrouped", place{}), "hosts"
	number := 0
	for line := range strings.Lines(text) {
		if number++; len(inv.problems) >= maxProblems {
			return
		}
		body := strings.TrimSpace(line)
		at := place{number, 1 + len([]rune(line)) - len([]rune(strings.TrimLeft(line, " \t")))}
		if body == "" || body[0] == '#' || body[0] == ';' {
			continue
		}
		if body[0] == '[' {
			m := sectionPattern.FindStringSubmatch(body)
			switch {
			case m == nil:
				inv.problem(at, "this is no section: write [group], [group:vars] or [group:children]")
				return
			case m[2] != "" && m[2] != "vars" && m[2] != "children" && m[2] != "hosts":
				inv.problem(at, "[%s:%s] is no section that Ansible knows: :vars, :children or none", m[1], m[2])
			}
			g, kind = inv.group(m[1], at), m[2]
			if kind == "" {
				kind = "hosts"
			}
			continue
		}
		switch kind {
		case "vars":
			name, value, ok := strings.Cut(body, "=")
			if !ok {
				inv.problem(at, "a line of [%s:vars] is a variable and its value: name=value", g.name)
				continue
			}
			g.vars[strings.TrimSpace(name)] = variable{unquote(strings.TrimSpace(value)), at}
		case "children":
			m := groupPattern.FindStringSubmatch(body)
			if m == nil {
				inv.problem(at, "a line of [%s:children] is the name of a group", g.name)
				continue
			}
			g.children = append(g.children, m[1])
		default:
			inv.hostLine(g, body, at)
		}
	}
	if len(inv.hosts) == 0 && len(inv.problems) == 0 {
		inv.problem(place{}, "names no host")
	}
}

// hostLine reads a host, or a range of them, and its variables.
func (inv *Inventory) hostLine(g *group, line string, at place) {
	words, err := split(line)
	if err != nil {
		inv.problem(at, "%v", err)
		return
	}
	if len(words) == 0 {
		return
	}
	hosts := inv.host(g, words[0], at)
	for _, word := range words[1:] {
		name, value, ok := strings.Cut(word, "=")
		if !ok || name == "" {
			// It may be part of a secret with a space in it: it is not shown.
			inv.problem(at, "what comes after a host is name=value, with quotes around a value that has spaces in it")
			return
		}
		inv.set(hosts, name, variable{unquote(value), at})
	}
}

// unquote is a value as Ansible takes it: a Python literal, if it is one. Of those
// only texts matter here.
func unquote(value string) string {
	if n := len(value); n >= 2 && (value[0] == '"' || value[0] == '\'') && value[n-1] == value[0] {
		return value[1 : n-1]
	}
	return value
}

// split makes words of a line as Python's shlex does: quotes, a backslash, and a
// # that begins a comment.
func split(line string) ([]string, error) {
	var words []string
	var word []rune
	in, quote, escaped := false, rune(0), false
	end := func() {
		if in {
			words = append(words, string(word))
		}
		word, in = nil, false
	}
	for _, r := range line {
		switch {
		case escaped:
			if quote == '"' && r != '"' && r != '\\' {
				word = append(word, '\\')
			}
			word, escaped = append(word, r), false
		case r == '\\' && quote != '\'':
			escaped, in = true, true
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word = append(word, r)
		case r == '"' || r == '\'':
			quote, in = r, true
		case r == '#':
			end()
			return words, nil
		case r == ' ' || r == '\t' || r == '\r':
			end()
		default:
			word, in = append(word, r), true
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("the quote %c is never closed", quote)
	}
	if escaped {
		return nil, errors.New("nothing comes after the backslash at its end")
	}
	end()
	return words, nil
}

var rangePattern = regexp.MustCompile(`\[([0-9]{1,9}|[A-Za-z]):([0-9]{1,9}|[A-Za-z])(?::([0-9]{1,9}))?\]`)

// expand gives the hosts that a pattern such as p[1:4] stands for.
func expand(pattern string) ([]string, error) {
	if pattern == "" {
		return nil, errors.New("this is no host")
	}
	m := rangePattern.FindStringSubmatchIndex(pattern)
	if m == nil {
		if strings.ContainsAny(pattern, "[]{}=,\"' \t\n") {
			return nil, errors.New("this is no host: a range is written p[1:4] or p[a:d]")
		}
		return []string{pattern}, nil
	}
	first, last, step := pattern[m[2]:m[3]], pattern[m[4]:m[5]], 1
	if m[6] >= 0 {
		step, _ = strconv.Atoi(pattern[m[6]:m[7]])
	}
	numbers := isNumber(first)
	if numbers != isNumber(last) || step < 1 {
		return nil, errors.New("a range goes from a number to a number, or from a letter to a letter: p[1:4], p[a:d], p[1:9:2]")
	}
	low, high := int(first[0]), int(last[0])
	if numbers {
		low, _ = strconv.Atoi(first)
		high, _ = strconv.Atoi(last)
	}
	if high < low || (high-low)/step >= maxHosts {
		return nil, fmt.Errorf("a range begins with its lowest, and has at most %d hosts", maxHosts)
	}
	if numbers && len(first) > 1 && first[0] == '0' && len(first) != len(last) {
		return nil, errors.New("both ends of a range with leading zeros have as many digits: [01:10]")
	}
	rest, err := expand("x" + pattern[m[1]:])
	if err != nil {
		return nil, err
	}
	if ((high-low)/step+1)*len(rest) > maxHosts {
		return nil, fmt.Errorf("these are more than %d hosts", maxHosts)
	}
	var names []string
	for n := low; n <= high; n += step {
		middle := string(rune(n))
		switch {
		case numbers && len(first) > 1 && first[0] == '0':
			middle = fmt.Sprintf("%0*d", len(first), n)
		case numbers:
			middle = strconv.Itoa(n)
		}
		for _, tail := range rest {
			names = append(names, pattern[:m[0]]+middle+tail[1:])
		}
	}
	return names, nil
}

func isNumber(s string) bool { return s[0] >= '0' && s[0] <= '9' }
