package api_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The routes of the handlers, as their source has them. http.ServeMux tells
// nobody what it was given, and the source of all of them is here.

// doors says who answers the routes of a file, or of a folder: the first of the
// list that it is in. What has none is not a server's: what asks, and what only
// writes a call in a text.
var doors = []struct{ place, door string }{
	{"controller/calls.go", "nodes"},
	{"controller/local.go", "socket"},
	{"controller/page/calls.go", "socket"},
	{"controller/page/", "page"},
	{"controller/", parts},
	{"netboot/calls.go", "socket"},
	{"firstboot/", "agent"},
}

// parts of the service answer nodes under /v1/ (controller.Options.Calls), and the
// command line under a prefix of their own (Options.Local).
const parts = "nodes or socket"

func doorOf(file, path string) string {
	for _, d := range doors {
		if file != d.place && !(strings.HasSuffix(d.place, "/") && strings.HasPrefix(file, d.place)) {
			continue
		}
		switch {
		case d.door != parts:
			return d.door
		case strings.HasPrefix(path, "/v1/"):
			return "nodes"
		}
		return "socket"
	}
	return ""
}

// A route is a method and a path, and who answers it.
type route struct{ door, method, path string }

func (r route) String() string { return r.door + " " + r.method + " " + r.path }

// routesOf are the routes of the module's handlers: whatever string is a method
// and a path, written together as http.ServeMux has them. unread are patterns
// that only running the program would tell.
func routesOf(t *testing.T, root string) (routes []route, unread []string) {
	t.Helper()
	p := &program{root: root, packages: map[string]*source{}}
	for _, top := range []string{"controller", "netboot", "firstboot"} {
		err := filepath.WalkDir(filepath.Join(root, top), func(place string, d fs.DirEntry, err error) error {
			if err != nil || !d.IsDir() || d.Name() == "testdata" {
				return err
			}
			dir, err := filepath.Rel(root, place)
			if err != nil {
				return err
			}
			found, dark, err := p.routes(filepath.ToSlash(dir))
			routes, unread = append(routes, found...), append(unread, dark...)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return routes, unread
}

// A program is the module's source, package by package.
type program struct {
	root     string
	packages map[string]*source // by folder
}

// A source is a package: its files, and its constants.
type source struct {
	set       *token.FileSet
	files     map[string]*ast.File
	constants map[string]ast.Expr
	of        map[string]*ast.File // which file a constant is in
}

func (p *program) load(dir string) (*source, error) {
	if s := p.packages[dir]; s != nil {
		return s, nil
	}
	s := &source{set: token.NewFileSet(), files: map[string]*ast.File{}, constants: map[string]ast.Expr{}, of: map[string]*ast.File{}}
	p.packages[dir] = s
	entries, err := os.ReadDir(filepath.Join(p.root, dir))
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		name := e.Name()
		if e.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(s.set, filepath.Join(p.root, dir, name), nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		s.files[name] = f
		for _, decl := range f.Decls {
			gen, ok := decl.(*ast.GenDecl)
			if !ok || gen.Tok != token.CONST {
				continue
			}
			for _, spec := range gen.Specs {
				v := spec.(*ast.ValueSpec)
				for i, name := range v.Names {
					if i < len(v.Values) {
						s.constants[name.Name], s.of[name.Name] = v.Values[i], f
					}
				}
			}
		}
	}
	return s, nil
}

var (
	pattern = regexp.MustCompile(`^(GET|HEAD|POST|PUT|PATCH|DELETE) (/\S*)$`)
	begins  = regexp.MustCompile(`^"(GET|HEAD|POST|PUT|PATCH|DELETE) /?[^ ]*"$`)
)

func (p *program) routes(dir string) (routes []route, unread []string, err error) {
	s, err := p.load(dir)
	if err != nil {
		return nil, nil, err
	}
	for name, f := range s.files {
		file := path.Join(dir, name)
		if doorOf(file, "") == "" {
			continue
		}
		// What loops over words stands for each of them.
		var loops []loop
		ast.Inspect(f, func(n ast.Node) bool {
			r, ok := n.(*ast.RangeStmt)
			if !ok {
				return true
			}
			list, _ := r.X.(*ast.CompositeLit)
			switch typeOf(list).(type) {
			case *ast.ArrayType:
				if word, named := r.Value.(*ast.Ident); named {
					loops = append(loops, loop{word.Name, r.Body, list.Elts})
				}
			case *ast.MapType:
				if word, named := r.Key.(*ast.Ident); named {
					var keys []ast.Expr
					for _, e := range list.Elts {
						keys = append(keys, e.(*ast.KeyValueExpr).Key)
					}
					loops = append(loops, loop{word.Name, r.Body, keys})
				}
			}
			return true
		})
		ast.Inspect(f, func(n ast.Node) bool {
			for _, place := range handled(n) {
				texts, _ := p.texts(s, f, place, loops)
				for _, text := range texts {
					// One that ends in a slash is for what has no route.
					if strings.HasPrefix(text, "/") && !strings.HasSuffix(text, "/") {
						routes = append(routes, route{doorOf(file, text), anyMethod, text})
					}
				}
			}
			return true
		})
		ast.Inspect(f, func(n ast.Node) bool {
			e, ok := n.(ast.Expr)
			if !ok {
				return true
			}
			if b, ok := e.(*ast.BinaryExpr); !ok || b.Op != token.ADD {
				if lit, ok := e.(*ast.BasicLit); !ok || lit.Kind != token.STRING {
					return true
				}
			}
			texts, ok := p.texts(s, f, e, loops)
			if !ok {
				if left := leftmost(e); begins.MatchString(left) {
					unread = append(unread, fmt.Sprintf("%s: %s…", s.set.Position(e.Pos()), left))
					return false
				}
				return true
			}
			for _, text := range texts {
				if m := pattern.FindStringSubmatch(text); m != nil {
					routes = append(routes, route{doorOf(file, m[2]), m[1], strings.TrimSuffix(strings.ReplaceAll(m[2], "...}", "}"), "{$}")})
				}
			}
			return false // what it is made of is not another
		})
	}
	return routes, unread, nil
}

// anyMethod is of a handler that is given all methods, and sees for itself which
// it answers.
const anyMethod = "any"

// handled are the expressions of a node that handlers are registered by: of
// Handle, HandleFunc, and of maps of handlers.
func handled(n ast.Node) (places []ast.Expr) {
	switch n := n.(type) {
	case *ast.CallExpr:
		if f, ok := n.Fun.(*ast.SelectorExpr); ok && len(n.Args) == 2 && (f.Sel.Name == "Handle" || f.Sel.Name == "HandleFunc") {
			places = append(places, n.Args[0])
		}
	case *ast.CompositeLit:
		kind, ok := n.Type.(*ast.MapType)
		if !ok {
			return nil
		}
		if v, ok := kind.Value.(*ast.SelectorExpr); !ok || v.Sel.Name != "Handler" {
			return nil
		}
		for _, e := range n.Elts {
			places = append(places, e.(*ast.KeyValueExpr).Key)
		}
	}
	return places
}

// A loop gives a name to one word after the other, in its body.
type loop struct {
	name  string
	body  *ast.BlockStmt
	words []ast.Expr
}

func typeOf(c *ast.CompositeLit) ast.Expr {
	if c == nil {
		return nil
	}
	return c.Type
}

func leftmost(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BinaryExpr:
		return leftmost(e.X)
	case *ast.BasicLit:
		return e.Value
	}
	return ""
}

// texts is what a constant expression says.
func (p *program) texts(s *source, f *ast.File, e ast.Expr, loops []loop) ([]string, bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		text, err := strconv.Unquote(e.Value)
		return []string{text}, err == nil && e.Kind == token.STRING
	case *ast.ParenExpr:
		return p.texts(s, f, e.X, loops)
	case *ast.BinaryExpr:
		if e.Op != token.ADD {
			return nil, false
		}
		left, ok := p.texts(s, f, e.X, loops)
		if !ok {
			return nil, false
		}
		right, ok := p.texts(s, f, e.Y, loops)
		var all []string
		for _, a := range left {
			for _, b := range right {
				all = append(all, a+b)
			}
		}
		return all, ok
	case *ast.CallExpr: // string(x)
		if id, ok := e.Fun.(*ast.Ident); ok && id.Name == "string" && len(e.Args) == 1 {
			return p.texts(s, f, e.Args[0], loops)
		}
	case *ast.Ident:
		for _, l := range loops {
			if l.name != e.Name || e.Pos() < l.body.Pos() || e.Pos() >= l.body.End() {
				continue
			}
			var all []string
			for _, word := range l.words {
				text, ok := p.texts(s, f, word, nil)
				if !ok {
					return nil, false
				}
				all = append(all, text...)
			}
			return all, true
		}
		if value := s.constants[e.Name]; value != nil {
			return p.texts(s, s.of[e.Name], value, nil)
		}
	case *ast.SelectorExpr:
		x, ok := e.X.(*ast.Ident)
		if !ok {
			return nil, false
		}
		for _, imported := range f.Imports {
			where, _ := strconv.Unquote(imported.Path.Value)
			name := path.Base(where)
			if imported.Name != nil {
				name = imported.Name.Name
			}
			dir, ours := strings.CutPrefix(where, "hatchery/")
			if name != x.Name || !ours {
				continue
			}
			other, err := p.load(dir)
			if err != nil || other.constants[e.Sel.Name] == nil {
				return nil, false
			}
			return p.texts(other, other.of[e.Sel.Name], other.constants[e.Sel.Name], nil)
		}
	}
	return nil, false
}

// codesOf are the codes of errors and alarms: the module's constants of the type
// enrol.Code.
func codesOf(t *testing.T, root string) []string {
	t.Helper()
	var codes []string
	for _, top := range []string{"controller", "netboot", "firstboot", "internal"} {
		err := filepath.WalkDir(filepath.Join(root, top), func(place string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(place, ".go") || strings.HasSuffix(place, "_test.go") {
				return err
			}
			f, err := parser.ParseFile(token.NewFileSet(), place, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			ast.Inspect(f, func(n ast.Node) bool {
				v, ok := n.(*ast.ValueSpec)
				if !ok || len(v.Values) != 1 || !isCode(f, v.Type) {
					return true
				}
				if lit, ok := v.Values[0].(*ast.BasicLit); ok {
					code, _ := strconv.Unquote(lit.Value)
					codes = append(codes, code)
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(codes)
	return slices.Compact(codes)
}

func isCode(f *ast.File, kind ast.Expr) bool {
	switch kind := kind.(type) {
	case *ast.Ident:
		return kind.Name == "Code" && f.Name.Name == "enrol"
	case *ast.SelectorExpr:
		x, ok := kind.X.(*ast.Ident)
		return ok && x.Name == "enrol" && kind.Sel.Name == "Code"
	}
	return false
}

// TestReadingRoutes judges the reader of routes, on source that has of everything.
func TestReadingRoutes(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{
		"internal/wire/wire.go": "package wire\nconst Path = \"/v1/\" + version\nconst version = \"x\"\n",
		"controller/calls.go": `package controller
import w "hatchery/internal/wire"
const prefix = "/a/"
func f() {
	mux.HandleFunc("GET "+w.Path, nil)
	mux.Handle("POST "+prefix+"{slot}/{rest...}", nil)
	mux.Handle("GET "+prefix+"{$}", nil)
	for _, part := range []string{"hub", w.Path} { mux.Handle("PUT "+prefix+part, nil) }
	for part := range map[string]int{"hub": 1} { mux.Handle("HEAD "+prefix+part, nil) }
	m := map[string]any{"DELETE /b": nil}
	m["PATCH "+prefix] = nil
	mux.Handle("GET "+unknown, nil)
	mux.Handle("GET "+w.Unknown+"/x", nil)
	log("GET it: " + unknown)
	mux.Handle("/", nil)
	m2 := map[string]http.Handler{w.Path: nil, prefix: nil}
}`,
		"netboot/client.go":  "package netboot\nvar x = \"GET /mine\"\n",
		"firstboot/agent.go": "package firstboot\nvar x = \"GET /agent\"\n",
	} {
		place := filepath.Join(root, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(place), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(place, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	routes, unread := routesOf(t, root)
	var have []string
	for _, r := range routes {
		have = append(have, r.String())
	}
	slices.Sort(have)
	want := []string{"agent GET /agent", "nodes DELETE /b", "nodes GET /a/", "nodes GET /v1/x", "nodes HEAD /a/hub", "nodes PATCH /a/",
		"nodes POST /a/{slot}/{rest}", "nodes PUT /a//v1/x", "nodes PUT /a/hub", "nodes any /v1/x"}
	if !slices.Equal(have, want) {
		t.Errorf("the routes are\n%s\nand should be\n%s", strings.Join(have, "\n"), strings.Join(want, "\n"))
	}
	if len(unread) != 2 {
		t.Errorf("what cannot be read is %q", unread)
	}
}
