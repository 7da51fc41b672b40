package main

import (
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// The book: README.md and docs/, which are written for readers and read here.

// root is the checkout's folder, seen from this package.
const checkout = "../.."

// A chapter is one document, by its path in the checkout.
type chapter struct {
	path     string
	text     string
	commands []bookCommand
}

// A bookCommand is a line of a code block that begins with a dollar sign, with what
// belongs to it: continued lines, and the text of a here-document.
type bookCommand struct {
	line int
	text string // for the shell
}

// key is how tables name a command: its first line without the remark.
func (c bookCommand) key() string {
	first, _, _ := strings.Cut(c.text, "\n")
	return strings.TrimSpace(remark.ReplaceAllString(first, ""))
}

var (
	remark  = regexp.MustCompile(`\s+#\s.*$`)
	heredoc = regexp.MustCompile(`<<'?(\w+)'?`)
	fence   = regexp.MustCompile("^ *```")
	// A line of a block that is a command and does not say so.
	undollared = regexp.MustCompile(`^(sudo )?hatchery (init|check|plan|build|inspect|lock|cache|boot|flash|push|import|backup|status|events|rebuild|upgrade|power|console|revoke|netboot|workloads|secrets|doctor|page|metrics)( |$)`)
)

// book are the chapters in reading order: README.md, the contents, and what they list.
func book(t *testing.T) []*chapter {
	t.Helper()
	names := []string{"README.md", "docs/README.md"}
	contents, err := os.ReadFile(filepath.Join(checkout, "docs/README.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range markdownLink.FindAllStringSubmatch(string(contents), -1) {
		if name := path.Join("docs", m[1]); path.Ext(name) == ".md" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	var all []*chapter
	for _, name := range names {
		text, err := os.ReadFile(filepath.Join(checkout, name))
		if err != nil {
			t.Fatal(err)
		}
		c := &chapter{path: name, text: string(text)}
		c.commands = c.read(t)
		all = append(all, c)
	}
	return all
}

// blocks calls f with each line of a code block, without the block's indent, and ""
// between two blocks.
func (c *chapter) blocks(f func(number int, line string)) {
	fenced, skipped := false, false
	lists := false // what is indented under a list's item is text
	for i, line := range strings.Split(c.text, "\n") {
		switch {
		case fence.MatchString(line):
			fenced = !fenced
			kind := strings.TrimLeft(line, " `")
			skipped = fenced && kind != "" && kind != "sh" && kind != "console"
			f(i+1, "")
		case fenced && !skipped:
			f(i+1, line)
		case fenced:
		case strings.HasPrefix(line, "    ") && !lists:
			f(i+1, line[4:])
		case strings.TrimSpace(line) == "":
			f(i+1, "")
		default:
			lists = strings.HasPrefix(line, "- ") || lists && strings.HasPrefix(line, " ")
			f(i+1, "")
		}
	}
}

func (c *chapter) read(t *testing.T) []bookCommand {
	t.Helper()
	var commands []bookCommand
	end, more := "", false // of a here-document; a line goes on
	c.blocks(func(number int, line string) {
		last := len(commands) - 1
		switch {
		case end != "":
			commands[last].text += "\n" + line
			if line == end {
				end = ""
			}
			return
		case more:
			commands[last].text += "\n" + line
		case strings.HasPrefix(line, "$ "):
			commands = append(commands, bookCommand{line: number, text: line[2:]})
		case undollared.MatchString(line):
			t.Errorf("%s:%d: a command of a code block begins with \"$ \": %s", c.path, number, line)
			return
		default:
			return
		}
		more = strings.HasSuffix(line, `\`)
		if m := heredoc.FindStringSubmatch(line); m != nil {
			end = m[1]
		}
	})
	if end != "" {
		t.Errorf("%s: a here-document does not end with %s", c.path, end)
	}
	return commands
}

var (
	markdownLink = regexp.MustCompile(`\]\(([^)#\s]*)(?:#([^)\s]*))?\)`)
	heading      = regexp.MustCompile(`(?m)^#+ +(.*)$`)
	notInAnchor  = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
	anyFence     = regexp.MustCompile("(?ms)^```.*?^```$")
)

// anchors are what a document's headings are reached by, as GitHub makes them.
func anchors(text string) map[string]bool {
	found := map[string]bool{}
	for _, m := range heading.FindAllStringSubmatch(anyFence.ReplaceAllString(text, ""), -1) {
		title := markdownLink.ReplaceAllString(m[1], "")
		anchor := strings.ReplaceAll(notInAnchor.ReplaceAllString(strings.ToLower(title), ""), " ", "-")
		for name, n := anchor, 1; ; n++ {
			if !found[name] {
				found[name] = true
				break
			}
			name = anchor + "-" + string(rune('0'+n))
		}
	}
	return found
}

// TestBookLinks follows every link within the checkout, its anchor too; and every document
// is listed in the contents.
func TestBookLinks(t *testing.T) {
	documents, err := filepath.Glob(filepath.Join(checkout, "docs/*.md"))
	if err != nil {
		t.Fatal(err)
	}
	more, err := filepath.Glob(filepath.Join(checkout, "examples/*/*.md"))
	if err != nil {
		t.Fatal(err)
	}
	deeper, err := filepath.Glob(filepath.Join(checkout, "examples/*/*/*.md"))
	if err != nil {
		t.Fatal(err)
	}
	links := 0
	for _, document := range slices.Concat([]string{filepath.Join(checkout, "README.md")}, documents, more, deeper) {
		text, err := os.ReadFile(document)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range markdownLink.FindAllStringSubmatch(anyFence.ReplaceAllString(string(text), ""), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			links++
			target, of := document, text
			if m[1] != "" {
				target = filepath.Join(filepath.Dir(document), m[1])
				if of, err = os.ReadFile(target); err != nil {
					if info, e := os.Stat(target); e != nil || !info.IsDir() || m[2] != "" {
						t.Errorf("%s: a dead link: %v", document, err)
					}
					continue
				}
			}
			if m[2] != "" && filepath.Ext(target) == ".md" && !anchors(string(of))[m[2]] {
				t.Errorf("%s: %s has no heading #%s", document, target, m[2])
			}
		}
	}
	if links < 50 {
		t.Errorf("only %d links were found", links)
	}
	var listed []string
	for _, c := range book(t) {
		listed = append(listed, filepath.Join(checkout, c.path))
	}
	for _, document := range documents {
		if !slices.Contains(listed, document) {
			t.Errorf("docs/README.md does not list %s", filepath.Base(document))
		}
	}
}

var codeSpan = regexp.MustCompile("`([^`\n]+)`")

// TestBookSpeaksOfWhatThereIs: every `hatchery …` that a document has, in a block or in
// a sentence, is a command that there is, with flags that it has; and every command of
// hatchery's is spoken of.
func TestBookSpeaksOfWhatThereIs(t *testing.T) {
	spoken := map[string]bool{}
	for _, c := range book(t) {
		var all []string
		for _, command := range c.commands {
			first, _, _ := strings.Cut(remark.ReplaceAllString(command.text, ""), "<<")
			all = append(all, first)
		}
		for _, m := range codeSpan.FindAllStringSubmatch(anyFence.ReplaceAllString(c.text, ""), -1) {
			all = append(all, m[1])
		}
		for _, text := range all {
			for _, part := range regexp.MustCompile(`&&|\|\||[|;]`).Split(text, -1) {
				words := strings.Fields(part)
				if len(words) > 0 && words[0] == "sudo" {
					words = words[1:]
				}
				if len(words) < 2 || words[0] != "hatchery" {
					continue
				}
				found, err := speaks(words[1:])
				if err != "" {
					t.Errorf("%s: `%s`: %s", c.path, strings.TrimSpace(part), err)
				}
				spoken[found] = true
			}
		}
	}
	var silent func(c *cobra.Command)
	silent = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			if sub.Hidden || sub.Name() == "help" {
				continue
			}
			if !spoken[sub.CommandPath()] && !sub.HasSubCommands() {
				t.Errorf("no chapter speaks of `%s`", sub.CommandPath())
			}
			silent(sub)
		}
	}
	silent(newRoot(&settings{}))
}

// speaks finds the command that words are, and says what is wrong with them; "" if
// nothing is.
func speaks(words []string) (path, wrong string) {
	root := newRoot(&settings{})
	c, rest := root, words
	for len(rest) > 0 {
		i := slices.IndexFunc(c.Commands(), func(sub *cobra.Command) bool { return sub.Name() == rest[0] })
		if i < 0 {
			break
		}
		c, rest = c.Commands()[i], rest[1:]
	}
	if c == root && !strings.HasPrefix(words[0], "-") && words[0] != "…" && words[0] != "COMMAND" {
		return "", "there is no command " + words[0]
	}
	c.InitDefaultHelpFlag()
	c.InitDefaultVersionFlag()
	for _, word := range rest {
		name, _, _ := strings.Cut(strings.Trim(word, "[],…"), "=")
		long, isLong := strings.CutPrefix(name, "--")
		switch {
		case name == "-" || name == "--" || name == "":
		case isLong && c.Flags().Lookup(long) == nil && c.InheritedFlags().Lookup(long) == nil:
			return c.CommandPath(), "it has no flag --" + long
		case !isLong && strings.HasPrefix(name, "-") && len(name) == 2 && c.Flags().ShorthandLookup(name[1:]) == nil && c.InheritedFlags().ShorthandLookup(name[1:]) == nil:
			return c.CommandPath(), "it has no flag " + name
		}
	}
	return c.CommandPath(), ""
}
