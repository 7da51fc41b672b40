package spec

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// maxVisits bounds how many nodes are looked at, since aliases can make a
// small file stand for a vast one.
const maxVisits = 200_000

// A key describes one key of cluster.yaml: what it is for people, and how the
// decoder takes it. Exactly one of text, whole, flag, items, keys, entry and each
// is set; it says what kind of value the key has.
type key struct {
	name     string
	about    string // the first sentence stands alone in the file of `hatchery init`
	syntax   string // what a value looks like, for the reference
	example  string // as YAML, in one line
	required string // the remedy where the key is missing; "" where it may be
	initial  string // the value where the key is left out
	elsewise string // said in the reference where the default is not one value
	unbuilt  string // what in hatchery does not exist yet that this key is for
	builtFor string // the one value that works nevertheless
	choices  []string
	secret   bool // the value never appears in a message

	text  func(d *decoder, v item)        // one piece of text
	whole func(d *decoder, v item, n int) // a whole number
	flag  func(b bool)                    // true or false
	items func(d *decoder, v []item)      // a list of texts

	keys  []key                     // a section with keys of its own
	short string                    // the one of them that a text in the section's place is the value of
	begin func()                    // the section is there; a section with begin may be absent altogether
	end   func(d *decoder, at item) // after the section's keys

	entry       func(d *decoder, name item) (key, bool) // a mapping whose keys the user names
	placeholder string                                  // what stands for those names in the reference
	sample      func() key                              // such an entry, for the reference
	sampleName  string                                  // what the file of `hatchery init` calls it

	each  func(d *decoder, index int) key // a list of sections; with sample
	apart bool                            // excludes other keys, so that the file of `hatchery init` does not have it
}

// An item is a place in the file: a key's value or a list's entry.
type item struct {
	path         string
	node         ast.Node // with aliases, anchors and tags taken off; nil where nothing is written
	text         string
	line, column int
}

func (it item) null() bool {
	if it.node == nil {
		return true
	}
	_, null := it.node.(*ast.NullNode)
	return null
}

// A decoder walks a file and the table of keys side by side.
type decoder struct {
	cluster  *Cluster
	root     []key
	anchors  map[string][]*ast.AnchorNode
	at       map[string]item // the values that were there, by path
	problems []Problem
	unbuilt  []Problem
	budget   int
	spent    bool
}

func (d *decoder) problem(at item, format string, args ...any) {
	d.problems = append(d.problems, Problem{
		File: d.cluster.File, Line: at.line, Column: at.column, Path: at.path, Message: fmt.Sprintf(format, args...),
	})
}

// pending marks the problem that was found last as one of what may still come.
func (d *decoder) pending() {
	d.problems[len(d.problems)-1].Pending = true
}

func (d *decoder) notBuilt(at item, what string) {
	d.unbuilt = append(d.unbuilt, Problem{
		File: d.cluster.File, Line: at.line, Column: at.column, Path: at.path, Message: what,
	})
}

func (d *decoder) document(root ast.Node) {
	d.anchors = anchors(root)
	d.root = d.cluster.keys()
	at := d.resolve("", root)
	if _, ok := at.node.(*ast.MappingNode); !ok {
		d.problem(at, "the file is %s, not a mapping of keys: it begins with a line such as `name: homelab`", nodeKind(at.node))
		return
	}
	d.section(at, key{keys: d.root})
	d.crossCheck()
}

// resolve takes off a node what only wraps it.
func (d *decoder) resolve(path string, n ast.Node) item {
	line, column := position(n)
	at := item{path: path, line: line, column: column}
	for range maxNesting {
		if d.budget--; d.budget < 0 {
			if !d.spent {
				d.problem(at, "aliases make this file endless")
			}
			d.spent = true
			return at
		}
		switch v := n.(type) {
		case *ast.MappingValueNode:
			n = &ast.MappingNode{BaseNode: v.BaseNode, Start: v.Start, Values: []*ast.MappingValueNode{v}}
			continue
		case *ast.AnchorNode:
			n = v.Value
			continue
		case *ast.AliasNode:
			target := d.anchored(v)
			if target == nil {
				d.problem(at, "there is no anchor of this name above")
				return at
			}
			n = target
			continue
		case *ast.TagNode:
			switch v.Start.Value {
			case "!!str", "!!int", "!!bool", "!!map", "!!seq", "!!null", "!!float":
			default:
				d.problem(at, "tags mean nothing here: remove it")
				return at
			}
			n = v.Value
			continue
		case nil:
			return at
		case *ast.LiteralNode:
			at.text = strings.TrimSuffix(v.Value.Value, "\n")
		case *ast.MappingNode, *ast.SequenceNode:
		default:
			at.text = v.GetToken().Value
		}
		at.node = n
		return at
	}
	d.problem(at, "aliases go round in a circle here")
	return at
}

// anchored is the node that an alias stands for: the last of its name above.
func (d *decoder) anchored(alias *ast.AliasNode) ast.Node {
	var found ast.Node
	for _, a := range d.anchors[alias.Value.GetToken().Value] {
		if a.GetToken().Position.Offset < alias.GetToken().Position.Offset {
			found = a.Value
		}
	}
	return found
}

// A pair is a key as written, and its value.
type pair struct {
	key   item
	value ast.Node
}

// pairs lists a mapping's keys, with those that `<<` brings in unless the
// mapping has them itself.
func (d *decoder) pairs(at item, m *ast.MappingNode, depth int, quiet bool) []pair {
	if depth > maxNesting || d.spent {
		d.problem(at, "merges (<<) nest too deeply")
		return nil
	}
	var pairs, merged []pair
	seen := map[string]int{}
	for _, v := range m.Values {
		if _, merge := v.Key.(*ast.MergeKeyNode); merge {
			from := d.resolve(at.path, v.Value)
			sources := []item{from}
			if list, ok := from.node.(*ast.SequenceNode); ok {
				sources = nil
				for _, n := range list.Values {
					sources = append(sources, d.resolve(at.path, n))
				}
			}
			for _, source := range sources {
				if from, ok := source.node.(*ast.MappingNode); ok {
					merged = append(merged, d.pairs(source, from, depth+1, true)...)
				} else if source.node != nil {
					d.problem(source, "<< wants a mapping, not %s", nodeKind(source.node))
				}
			}
			continue
		}
		var written ast.Node = v.Key
		if explicit, ok := v.Key.(*ast.MappingKeyNode); ok { // ? key
			written = explicit.Value
		}
		k := d.resolve(at.path, written)
		switch k.node.(type) {
		case nil:
			if k.line == 0 {
				k.line, k.column = at.line, at.column
			}
			continue
		case *ast.MappingNode, *ast.SequenceNode:
			d.problem(k, "a key is a word, not %s", nodeKind(k.node))
			continue
		}
		k.line, k.column = position(written)
		if first, twice := seen[k.text]; twice {
			if !quiet {
				k.path = join(at.path, printable(k.text))
				d.problem(k, "is there twice, first in line %d: remove one", first)
			}
			continue
		}
		seen[k.text] = k.line
		pairs = append(pairs, pair{k, v.Value})
	}
	for _, p := range merged {
		if _, own := seen[p.key.text]; !own {
			seen[p.key.text] = p.key.line
			pairs = append(pairs, p)
		}
	}
	return pairs
}

// section decodes a mapping with known keys; at.node may be nil, and then the
// keys get their defaults.
func (d *decoder) section(at item, s key) {
	if s.begin != nil {
		s.begin()
	}
	for _, k := range s.keys {
		d.applyDefault(at.path, k)
	}
	present := map[string]bool{}
	if m, ok := at.node.(*ast.MappingNode); ok {
		for _, p := range d.pairs(at, m, 0, false) {
			k, ok := find(s.keys, p.key.text)
			if !ok {
				d.unknown(at, s, p.key)
				continue
			}
			v := d.value(join(at.path, k.name), p)
			if v.null() {
				continue
			}
			present[k.name] = true
			d.decode(k, v)
		}
	}
	for _, k := range s.keys {
		if k.required != "" && !present[k.name] {
			missing := at
			missing.path = join(at.path, k.name)
			if missing.line == 0 {
				missing.line, missing.column = 1, 1
			}
			d.problem(missing, "is missing: %s", k.required)
		}
		if !present[k.name] && k.keys != nil && k.begin == nil {
			d.section(item{path: join(at.path, k.name)}, withoutRequired(k))
		}
	}
	if s.end != nil {
		s.end(d, at)
	}
}

// shorthand decodes a section of which only one key's value is written, in
// its place: `base: x` for `base: {image: x}`.
func (d *decoder) shorthand(v item, s key) {
	if s.begin != nil {
		s.begin()
	}
	for _, k := range s.keys {
		d.applyDefault(v.path, k)
	}
	k, _ := find(s.keys, s.short)
	at := v
	v.path = join(v.path, k.name)
	d.decode(k, v)
	if s.end != nil {
		s.end(d, at)
	}
}

// withoutRequired is a section that is not there, which therefore misses
// nothing beyond itself.
func withoutRequired(k key) key {
	keys := make([]key, len(k.keys))
	for i, sub := range k.keys {
		sub.required = ""
		keys[i] = sub
	}
	return key{keys: keys}
}

func (d *decoder) applyDefault(path string, k key) {
	if k.initial == "" {
		return
	}
	at := item{path: join(path, k.name), text: k.initial}
	switch {
	case k.text != nil:
		k.text(d, at)
	case k.whole != nil:
		n, _ := strconv.Atoi(k.initial)
		k.whole(d, at, n)
	case k.items != nil:
		k.items(d, []item{at})
	}
}

// value is a pair's value. A value that came by an alias keeps the place
// where it was used, which is what the user has to look at.
func (d *decoder) value(path string, p pair) item {
	v := d.resolve(path, p.value)
	if v.line == 0 || v.null() {
		v.line, v.column = p.key.line, p.key.column
	}
	return v
}

func (d *decoder) decode(k key, v item) {
	d.at[v.path] = v
	problems := len(d.problems)
	switch {
	case k.text != nil:
		if !d.scalar(v, "text") {
			return
		}
		if len(k.choices) > 0 && !contains(k.choices, v.text) {
			d.problem(v, "%s is not one of %s%s", quote(v.text), strings.Join(k.choices, ", "), didYouMean(v.text, k.choices))
			return
		}
		k.text(d, v)
	case k.whole != nil:
		if !d.scalar(v, "a whole number") {
			return
		}
		n, err := strconv.Atoi(v.text)
		if err != nil {
			d.problem(v, "%s is not a whole number", quote(v.text))
			return
		}
		k.whole(d, v, n)
	case k.flag != nil:
		if !d.scalar(v, "true or false") {
			return
		}
		b, ok := v.node.(*ast.BoolNode)
		if !ok {
			d.problem(v, "%s is neither true nor false", quote(v.text))
			return
		}
		k.flag(b.Value)
	case k.items != nil:
		list, ok := v.node.(*ast.SequenceNode)
		if !ok {
			d.problem(v, "wants a list, not %s: write [ ] round it, or each entry on a line of its own after `- `", nodeKind(v.node))
			return
		}
		var items []item
		for i, n := range list.Values {
			it := d.resolve(fmt.Sprintf("%s[%d]", v.path, i), n)
			if text, ok := textWithColon(it.node); ok {
				it.node, it.text = text, text.Value
			}
			switch {
			case it.node == nil: // reported already
			case it.null():
				if it.line == 0 {
					it.line, it.column = v.line, v.column
				}
				d.problem(it, "is empty: remove the entry, or write what belongs there")
			case d.scalar(it, "text"):
				items = append(items, it)
			}
		}
		k.items(d, items)
		if len(list.Values) == 0 {
			return // none is asked for, so nothing has to be built
		}
	case k.keys != nil && k.short != "" && isText(v.node):
		d.shorthand(v, k)
		return
	case k.keys != nil:
		if !d.mapping(v, k.short) {
			return
		}
		d.section(v, k)
		return // its keys speak for themselves
	case k.each != nil:
		list, ok := v.node.(*ast.SequenceNode)
		if !ok {
			d.problem(v, "wants a list, not %s: write `- ` before each entry", nodeKind(v.node))
			return
		}
		for i, n := range list.Values {
			it := d.resolve(fmt.Sprintf("%s[%d]", v.path, i), n)
			switch {
			case it.null():
				if it.line == 0 {
					it.line, it.column = v.line, v.column
				}
				d.problem(it, "is empty: remove the entry, or write what belongs there")
			case d.mapping(it, ""):
				d.at[it.path] = it
				d.section(it, k.each(d, i))
			}
		}
	case k.entry != nil:
		if !d.mapping(v, "") {
			return
		}
		d.entries(v, k)
	}
	if k.unbuilt != "" && (k.builtFor == "" || v.text != k.builtFor) && len(d.problems) == problems {
		d.notBuilt(v, k.unbuilt+" is not built yet: leave this out")
	}
}

func (d *decoder) entries(at item, k key) {
	pairs := d.pairs(at, at.node.(*ast.MappingNode), 0, false)
	for _, p := range pairs {
		name := p.key
		name.path = join(at.path, printable(name.text))
		entry, ok := k.entry(d, name)
		if !ok {
			continue
		}
		v := d.value(name.path, p)
		if v.null() {
			if entry.keys != nil {
				d.at[v.path] = v
				v.node = nil
				d.section(v, entry)
			} else {
				d.problem(v, "is empty: write \"\" where that is meant")
			}
			continue
		}
		d.decode(entry, v)
	}
	if k.end != nil {
		k.end(d, at)
	}
}

// scalar says whether v is one word or text; numbers and truth values are
// taken as they are written, so that `model: 4` and `ssid: 1234` mean what
// they say.
func (d *decoder) scalar(v item, want string) bool {
	switch v.node.(type) {
	case nil:
		return false // reported already
	case *ast.MappingNode, *ast.SequenceNode:
		d.problem(v, "wants %s, not %s", want, nodeKind(v.node))
		return false
	}
	return true
}

// textWithColon mends what the parser makes of `{preload: [alpine:3.20]}`: a
// mapping, though a colon with no space after it is part of a plain text (YAML
// 1.2.2, section 7.3.3). It only errs in a list in braces.
func textWithColon(n ast.Node) (*ast.StringNode, bool) {
	m, ok := n.(*ast.MappingNode)
	if !ok || len(m.Values) != 1 || m.IsFlowStyle {
		return nil, false
	}
	plain := func(n ast.Node) (tk *token.Token, ok bool) {
		if _, scalar := n.(ast.ScalarNode); !scalar {
			return nil, false
		}
		switch tk = n.GetToken(); tk.Type {
		case token.SingleQuoteType, token.DoubleQuoteType, token.LiteralType, token.FoldedType, token.ImplicitNullType:
			return nil, false
		}
		return tk, true
	}
	key, ok := plain(m.Values[0].Key)
	if !ok {
		return nil, false
	}
	value, ok := plain(m.Values[0].Value)
	if !ok || value.Position.Line != key.Position.Line || value.Position.Column != key.Position.Column+utf8.RuneCountInString(key.Value)+1 {
		return nil, false
	}
	return ast.String(token.New(key.Value+":"+value.Value, key.Value+":"+value.Value, key.Position)), true
}

// isText says whether a node is one word or text.
func isText(n ast.Node) bool {
	switch n.(type) {
	case nil, *ast.NullNode, *ast.MappingNode, *ast.SequenceNode:
		return false
	}
	return true
}

func (d *decoder) mapping(v item, short string) bool {
	switch v.node.(type) {
	case nil:
		return false
	case *ast.MappingNode:
		return true
	}
	alone := ""
	if short != "" {
		alone = ", or its " + short + " alone"
	}
	d.problem(v, "wants keys of its own%s, not %s", alone, nodeKind(v.node))
	return false
}

// unknown reports a key that the section s does not have. It is not quoted
// where it might be a secret with a slip before it, as in `psk:hunter2`.
func (d *decoder) unknown(at item, s key, k item) {
	names := make([]string, len(s.keys))
	secrets := false
	for i, known := range s.keys {
		names[i] = known.name
		secrets = secrets || known.secret
	}
	hint := didYouMean(k.text, names)
	if hint == "" {
		if elsewhere := d.homes(k.text); len(elsewhere) > 0 {
			hint = ": it belongs under " + strings.Join(elsewhere, " or ")
		}
	}
	if hint == "" {
		hint = ": the keys here are " + strings.Join(names, ", ")
		if secrets {
			k.path = at.path
			d.problem(k, "a key is not known, and not shown, since it may have a secret in it%s", hint)
			return
		}
	}
	k.path = join(at.path, printable(k.text))
	d.problem(k, "is not a known key%s", hint)
}

// homes lists the sections that have a key of this name.
func (d *decoder) homes(name string) []string {
	var homes []string
	var walk func(path string, keys []key)
	walk = func(path string, keys []key) {
		for _, k := range keys {
			if k.name == name && path != "" {
				homes = append(homes, path)
			}
			below := join(path, k.name)
			if k.keys != nil {
				walk(below, k.keys)
			}
			if k.sample != nil && !k.apart {
				walk(join(below, k.placeholder), k.sample().keys)
			}
		}
	}
	walk("", d.root)
	return homes
}

// printable is a key as it may stand in a path.
func printable(key string) string {
	if key != "" && len(key) <= 40 && strings.IndexFunc(key, func(r rune) bool {
		return r <= ' ' || r == '"' || r == 0x7f || !strconv.IsPrint(r)
	}) < 0 {
		return key
	}
	return quote(key)
}

func find(keys []key, name string) (key, bool) {
	for _, k := range keys {
		if k.name == name {
			return k, true
		}
	}
	return key{}, false
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func nodeKind(n ast.Node) string {
	switch n.(type) {
	case nil, *ast.NullNode:
		return "nothing"
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return "a number"
	case *ast.BoolNode:
		return "true or false"
	}
	return "text"
}

// quote writes what the user wrote into a message, in one line and not endless.
func quote(s string) string {
	if r := []rune(s); len(r) > 60 {
		s = string(r[:60]) + "…"
	}
	return strconv.Quote(s)
}

func contains(list []string, s string) bool {
	for _, known := range list {
		if known == s {
			return true
		}
	}
	return false
}
