package spec

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Limits of a file. The YAML parser needs time that grows with the square of
// the number of keys in a mapping, and memory that grows with the square of
// the nesting; a cluster of 252 fully described slots has some 10,000 tokens.
const (
	maxFileSize = 1 << 20
	maxTokens   = 20_000
	maxNesting  = 32
)

// A syntaxProblem is a file that is not YAML, or none that we take.
type syntaxProblem struct {
	line, column int
	message      string
}

func (p *syntaxProblem) Error() string { return p.message }

// parseDocument gives the one document of a YAML file; nil where the file
// holds nothing.
func parseDocument(data []byte) (root ast.Node, err error) {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")) // the mark that Windows editors put first
	if len(data) > maxFileSize {
		return nil, &syntaxProblem{message: "the file is larger than 1 MiB: this is no cluster.yaml"}
	}
	if p := foreignByte(data); p != nil {
		return nil, p
	}
	// The parser is foreign code that reads what anybody wrote. Should it
	// trip over something, that is a problem of this file, not of the program.
	defer func() {
		if recover() != nil {
			root, err = nil, &syntaxProblem{message: "the YAML parser cannot cope with this file: write it more plainly"}
		}
	}()
	tokens := lexer.Tokenize(string(data))
	if p := overLimits(tokens); p != nil {
		return nil, p
	}
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey()) // duplicates are found with all the rest, not one at a time
	if err != nil {
		return nil, explainSyntax(err)
	}
	var bodies []ast.Node
	for _, doc := range file.Docs {
		if doc.Body == nil {
			continue
		}
		if _, directive := doc.Body.(*ast.DirectiveNode); !directive {
			bodies = append(bodies, doc.Body)
		}
	}
	switch len(bodies) {
	case 0:
		return nil, nil
	case 1:
		return bodies[0], nil
	}
	line, column := position(bodies[1])
	return nil, &syntaxProblem{line, column, "a second document begins here: one file describes one cluster, remove the line ---"}
}

// foreignByte finds what is no text: a file that is not UTF-8, or binary.
func foreignByte(data []byte) *syntaxProblem {
	line, column := 1, 1
	for i := 0; i < len(data); {
		r, size := utf8.DecodeRune(data[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			return &syntaxProblem{line, column, "this is not UTF-8: save the file as UTF-8"}
		case r < ' ' && r != '\n' && r != '\r' && r != '\t', r == 0x7f:
			return &syntaxProblem{line, column, fmt.Sprintf("the control character %U has no place in a text file", r)}
		case r == '\n':
			line, column = line+1, 0
		}
		column++
		i += size
	}
	return nil
}

// overLimits looks at the tokens before the parser does.
func overLimits(tokens token.Tokens) *syntaxProblem {
	if len(tokens) > maxTokens {
		return &syntaxProblem{message: fmt.Sprintf("the file has more than %d words and signs: this is no cluster.yaml", maxTokens)}
	}
	flow, line, marks := 0, 0, 0
	var columns []int // of the block mappings and lists that are open
	for _, tk := range tokens {
		if tk.Position.Line != line {
			line, marks = tk.Position.Line, 0
			if flow == 0 {
				for len(columns) > 0 && columns[len(columns)-1] >= tk.Position.Column {
					columns = columns[:len(columns)-1]
				}
				columns = append(columns, tk.Position.Column)
			}
		}
		switch tk.Type {
		case token.SequenceStartType, token.MappingStartType:
			flow++
		case token.SequenceEndType, token.MappingEndType:
			flow = max(flow-1, 0)
		case token.SequenceEntryType, token.MappingKeyType, token.AnchorType, token.TagType:
			if flow == 0 {
				marks++
			}
		}
		if max(flow, marks, len(columns)) > maxNesting {
			return &syntaxProblem{tk.Position.Line, tk.Position.Column, "this is nested too deeply"}
		}
	}
	return nil
}

// explainSyntax turns what the parser says into a problem with a remedy. The
// parser's messages quote nothing of the file, which may hold secrets; its
// full error text does and is not used.
func explainSyntax(err error) error {
	p := &syntaxProblem{message: "this is not YAML"}
	var e yaml.Error
	if !errors.As(err, &e) {
		return p
	}
	if tk := e.GetToken(); tk != nil && tk.Position != nil {
		p.line, p.column = tk.Position.Line, tk.Position.Column
	}
	message := e.GetMessage()
	p.message = message
	for _, hint := range []struct{ sign, remedy string }{
		{`'\t'`, "a tab cannot indent: use spaces"},
		{"\t", "a tab cannot indent: use spaces"},
		{"mapping value is not allowed", "a second `: ` where one value belongs: check the indentation of the next lines, or put a value that holds `: ` in quotes"},
		{"unexpected key name", "this is no `key: value`: a key wants a colon and a space after it"},
		{"non-map value is specified", "this is no `key: value`: a key wants a colon and a space after it"},
		{"value is not allowed in this context", "this does not belong here: check the indentation"},
		{"reserved character", "a value cannot begin with this character: put it in quotes"},
		{"directive", "a value cannot begin with %: put it in quotes"},
		{"end character of", "the quote that opens here is never closed"},
		{"']'", "a list that begins with [ wants a comma between its values and a ] at its end"},
		{"'}'", "a mapping that begins with { wants a comma between its keys and a } at its end"},
	} {
		if strings.Contains(message, hint.sign) {
			p.message = hint.remedy
			break
		}
	}
	return p
}

// position is where a node stands in the file.
func position(n ast.Node) (line, column int) {
	switch v := n.(type) {
	case *ast.MappingNode:
		// A block mapping's own token is the colon of its first key.
		if !v.IsFlowStyle && len(v.Values) > 0 {
			return position(v.Values[0])
		}
	case *ast.MappingValueNode:
		return position(v.Key)
	}
	if tk := n.GetToken(); tk != nil && tk.Position != nil {
		return tk.Position.Line, tk.Position.Column
	}
	return 0, 0
}

// anchors finds the nodes that aliases may stand for, by name; a name may be
// given again further down, so each has its place.
func anchors(n ast.Node) map[string][]*ast.AnchorNode {
	found := map[string][]*ast.AnchorNode{}
	var walk func(ast.Node)
	walk = func(n ast.Node) {
		switch v := n.(type) {
		case *ast.MappingNode:
			for _, pair := range v.Values {
				walk(pair)
			}
		case *ast.MappingValueNode:
			walk(v.Value)
		case *ast.SequenceNode:
			for _, value := range v.Values {
				walk(value)
			}
		case *ast.TagNode:
			walk(v.Value)
		case *ast.AnchorNode:
			name := v.Name.GetToken().Value
			found[name] = append(found[name], v)
			walk(v.Value)
		}
	}
	walk(n)
	return found
}
