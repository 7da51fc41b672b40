package hatchery_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

const module = "hatchery"

// floor is how high a package of this module lives; 0 for one that has no
// place in the house.
func floor(pkg string) int {
	switch top, _, _ := strings.Cut(pkg, "/"); top {
	case "internal", "testdata", "examples":
		return 1
	case "netboot", "firstboot", "overlays":
		return 2
	case "imagebuilder", "controller":
		return 3
	case "cmd":
		return 4
	}
	return 0
}

// onNodes says whether a package runs on nodes, where the image builder has
// no business.
func onNodes(pkg string) bool {
	for _, top := range []string{"firstboot", "netboot", "controller", "cmd/firstboot", "cmd/nodeinit", "cmd/reimage"} {
		if pkg == top || strings.HasPrefix(pkg, top+"/") {
			return true
		}
	}
	return false
}

func TestNoArrowRunsUp(t *testing.T) {
	imports := 0
	err := filepath.WalkDir(".", func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && (file == ".git" || file == "build" || file == "out" || file == "bin") {
			return fs.SkipDir
		}
		if entry.IsDir() || !strings.HasSuffix(file, ".go") || filepath.Dir(file) == "." {
			return nil
		}
		pkg := path.Dir(filepath.ToSlash(file))
		if floor(pkg) == 0 {
			t.Errorf("%s: %s has no floor in the house (docs/architecture.md)", file, pkg)
			return nil
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range parsed.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			imported, ours := strings.CutPrefix(imported, module+"/")
			if !ours {
				continue
			}
			imports++
			if floor(imported) > floor(pkg) {
				t.Errorf("%s imports %s, which lives on a higher floor", file, imported)
			}
			if onNodes(pkg) && strings.HasPrefix(imported+"/", "imagebuilder/") {
				t.Errorf("%s imports %s, but it runs on nodes", file, imported)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if imports == 0 {
		t.Fatal("no import of this module's own packages was found, so nothing was checked")
	}
}

// TestLinks follows the links of the documents to files of this tree.
func TestLinks(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#]+)(#[^)]*)?\)`)
	documents, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	links := 0
	for _, document := range append(documents, "README.md") {
		text, err := os.ReadFile(document)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			links++
			if _, err := os.Stat(filepath.Join(filepath.Dir(document), m[1])); err != nil {
				t.Errorf("%s: a dead link: %v", document, err)
			}
		}
	}
	if links == 0 {
		t.Fatal("no link was found, so nothing was checked")
	}
}
