package clusterlock

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/token"
)

const heading = `# Made by hatchery; keep it with cluster.yaml. The epoch (seconds since 1970) is
# every timestamp in the images, and what names of base images, packages and
# container images stand for is pinned here: with it, equal inputs give
# byte-equal images. ` + "`hatchery lock`" + ` brings it up to date.
`

const remedy = "restore it from your version control, or remove it to lock anew"

// A document is the file as YAML has it.
type document struct {
	Epoch      string           `yaml:"epoch"`
	Images     map[string]Image `yaml:"images"`
	Packages   []PackageSet     `yaml:"packages"`
	Containers []Container      `yaml:"containers"`
}

// Parse reads a file's content.
func Parse(data []byte) (*Lock, error) {
	d, err := decode(data)
	if err != nil {
		return nil, fmt.Errorf("%w; %s", err, remedy)
	}
	l := &Lock{Images: d.Images, Packages: d.Packages, Containers: d.Containers}
	if l.Epoch, err = parseEpoch(d.Epoch); err != nil {
		return nil, fmt.Errorf("epoch %w; %s", err, remedy)
	}
	if l.Images == nil {
		l.Images = map[string]Image{}
	}
	l.sort()
	if err := l.check(); err != nil {
		return nil, fmt.Errorf("%w; %s", err, remedy)
	}
	return l, nil
}

// decode reads the YAML. The parser is foreign code, and it can be made to
// need much time and memory by what this file never has; somebody else may
// have written the file.
func decode(data []byte) (d document, err error) {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	switch {
	case len(data) > maxSize:
		return d, errors.New("it is larger than 1 MiB: this is no cluster.lock")
	case !utf8.Valid(data):
		return d, errors.New("it is not UTF-8")
	case conflict.Match(data):
		return d, errors.New("it holds both sides of a merge conflict: keep one of them whole")
	}
	defer func() {
		if recover() != nil {
			d, err = document{}, errors.New("the YAML parser cannot cope with it")
		}
	}()
	if err := plain(lexer.Tokenize(string(data))); err != nil {
		return d, err
	}
	err = yaml.UnmarshalWithOptions(data, &d, yaml.Strict())
	var unknown *yaml.UnknownFieldError
	if errors.As(err, &unknown) {
		return d, fmt.Errorf("%s: a newer hatchery may have written it", firstLine(unknown.GetMessage()))
	}
	var syntax yaml.Error
	if errors.As(err, &syntax) {
		at := ""
		if tk := syntax.GetToken(); tk != nil && tk.Position != nil {
			at = fmt.Sprintf("line %d: ", tk.Position.Line)
		}
		return d, errors.New(at + firstLine(syntax.GetMessage()))
	}
	return d, err
}

var conflict = regexp.MustCompile(`(?m)^(<{7}|={7}|>{7})( |\r?$)`)

// firstLine is what of a foreign message goes into ours.
func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	if len(line) > 200 {
		line = strings.ToValidUTF8(line[:200], "") + "…"
	}
	return line
}

// Limits of what the parser is given. It needs time that grows with the square
// of the keys of a mapping.
const (
	maxTokens  = 100_000 // 2000 packages have half of them
	maxKeys    = 1000    // of one mapping
	maxNesting = 8
)

// plain refuses what this file never has: anchors, aliases, tags, several
// documents, vast mappings, deep nesting.
func plain(tokens token.Tokens) error {
	if len(tokens) > maxTokens {
		return fmt.Errorf("it has more than %d words and signs: this is no cluster.lock", maxTokens)
	}
	type level struct{ column, keys int } // of a block mapping or list
	var levels []level
	flow, flowKeys, line, entry := 0, 0, 0, 0
	for _, tk := range tokens {
		switch tk.Type {
		case token.AnchorType, token.AliasType, token.TagType, token.MergeKeyType, token.MappingKeyType, token.DocumentHeaderType, token.DocumentEndType, token.DirectiveType:
			return fmt.Errorf("line %d: %.40q has no place in it", tk.Position.Line, tk.Value)
		case token.SequenceEntryType:
			if entry == tk.Position.Line {
				return fmt.Errorf("line %d: a list in a list has no place in it", entry)
			}
			entry = tk.Position.Line
		case token.SequenceStartType:
			return fmt.Errorf("line %d: a list in brackets has no place in it", tk.Position.Line)
		case token.MappingStartType:
			flow++
		case token.MappingEndType:
			if flow = max(flow-1, 0); flow == 0 {
				flowKeys = 0
			}
		case token.MappingValueType:
			if flow > 0 {
				flowKeys++
			}
		}
		if tk.Position.Line != line && flow == 0 {
			line = tk.Position.Line
			for len(levels) > 0 && levels[len(levels)-1].column > tk.Position.Column {
				levels = levels[:len(levels)-1]
			}
			if len(levels) == 0 || levels[len(levels)-1].column < tk.Position.Column {
				levels = append(levels, level{column: tk.Position.Column})
			}
			if tk.Type != token.SequenceEntryType {
				levels[len(levels)-1].keys++
			}
		}
		switch {
		case max(flow, len(levels)) > maxNesting:
			return fmt.Errorf("line %d: it is nested too deeply", tk.Position.Line)
		case flowKeys > maxKeys, len(levels) > 0 && levels[len(levels)-1].keys > maxKeys:
			return fmt.Errorf("line %d: more than %d keys are beside each other: this is no cluster.lock", tk.Position.Line, maxKeys)
		}
	}
	return nil
}

var (
	namePattern   = regexp.MustCompile(`^[a-z0-9][a-z0-9_.-]{0,63}$`)
	digestPattern = regexp.MustCompile(`^[0-9a-f]{64}$`)
	datePattern   = regexp.MustCompile(`^[0-9]{4}-[0-9]{2}-[0-9]{2}$`)
)

// maxBytes is more than any image has, in bytes.
const maxBytes = 1 << 40

// check sees that nothing in the lock could lead a build astray.
func (l *Lock) check() error {
	for _, key := range slices.Sorted(maps.Keys(l.Images)) {
		if err := l.Images[key].check(key); err != nil {
			return fmt.Errorf("images: %.80q: %w", key, err)
		}
	}
	if err := l.checkPackages(); err != nil {
		return err
	}
	return l.checkContainers()
}

func (i Image) check(key string) error {
	isName := namePattern.MatchString(key)
	switch {
	case len(key) > 2000 || len(i.URL) > 2000 || !printable(key+i.URL):
		return errors.New("it is endless, or has characters that are none")
	case !isName && !strings.Contains(key, "://") && !strings.HasPrefix(key, "url-sha256:"):
		return errors.New("this is neither a name nor a URL")
	case isName && i.URL == "":
		return errors.New("url is missing")
	case !digestPattern.MatchString(i.SHA256):
		return errors.New("sha256 is missing, or no SHA-256 digest")
	case i.ImageSHA256 != "" && !digestPattern.MatchString(i.ImageSHA256):
		return errors.New("image_sha256 is no SHA-256 digest")
	case i.Released != "" && !datePattern.MatchString(i.Released):
		return errors.New("released is no date such as 2025-12-04")
	case min(i.Size, i.ImageSize) < 0 || max(i.Size, i.ImageSize) > maxBytes:
		return errors.New("its sizes make no sense")
	}
	if i.URL != "" {
		u, err := url.Parse(i.URL)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || u.User != nil {
			return errors.New("url is no https URL")
		}
	}
	return nil
}

// Bytes is the file's content: the same for equal locks.
func (l *Lock) Bytes() []byte {
	var b bytes.Buffer
	b.WriteString(heading)
	fmt.Fprintf(&b, "epoch: %d\n", l.Epoch.Unix())
	if len(l.Images) > 0 {
		b.WriteString("images:\n")
	}
	for _, key := range slices.SortedFunc(maps.Keys(l.Images), cmp.Compare[string]) {
		i := l.Images[key]
		fmt.Fprintf(&b, "  %s:\n", yamlKey(key))
		writeText(&b, "url", i.URL)
		writeText(&b, "sha256", i.SHA256)
		writeNumber(&b, "size", i.Size)
		writeText(&b, "image_sha256", i.ImageSHA256)
		writeNumber(&b, "image_size", i.ImageSize)
		writeText(&b, "released", i.Released)
	}
	l.writePackages(&b)
	l.writeContainers(&b)
	return b.Bytes()
}

func (l *Lock) writePackages(b *bytes.Buffer) {
	if len(l.Packages) > 0 {
		b.WriteString("packages:\n")
	}
	for _, s := range l.Packages {
		writeEntry(b, "base", s.Base)
		writeText(b, "architecture", s.Architecture)
		b.WriteString("    wanted:\n")
		for _, w := range s.Wanted {
			fmt.Fprintf(b, "      - %s\n", strconv.QuoteToASCII(w))
		}
		if len(s.Packages) > 0 {
			b.WriteString("    packages:\n")
		}
		for _, p := range s.Packages {
			fmt.Fprintf(b, "      - name: %s\n", strconv.QuoteToASCII(p.Name))
			for _, of := range []struct{ name, value string }{{"version", p.Version}, {"architecture", p.Architecture}, {"url", p.URL}, {"sha256", p.SHA256}} {
				fmt.Fprintf(b, "        %s: %s\n", of.name, strconv.QuoteToASCII(of.value))
			}
			fmt.Fprintf(b, "        size: %d\n", p.Size)
			if p.Automatic {
				b.WriteString("        automatic: true\n")
			}
		}
	}
}

func (l *Lock) writeContainers(b *bytes.Buffer) {
	if len(l.Containers) > 0 {
		b.WriteString("containers:\n")
	}
	for _, c := range l.Containers {
		writeEntry(b, "image", c.Image)
		writeText(b, "platform", c.Platform)
		writeText(b, "digest", c.Digest)
		writeNumber(b, "size", c.Size)
	}
}

// writeEntry begins an entry of a list with its first text.
func writeEntry(b *bytes.Buffer, name, value string) {
	fmt.Fprintf(b, "  - %s: %s\n", name, strconv.QuoteToASCII(value))
}

// writeText writes an entry's text, in quotes: a digest may look like a number.
func writeText(b *bytes.Buffer, name, value string) {
	if value != "" {
		fmt.Fprintf(b, "    %s: %s\n", name, strconv.QuoteToASCII(value))
	}
}

func writeNumber(b *bytes.Buffer, name string, value int64) {
	if value != 0 {
		fmt.Fprintf(b, "    %s: %d\n", name, value)
	}
}

var plainKey = regexp.MustCompile(`^[a-z]+_[a-z0-9_]*[a-z][a-z0-9_]*$`)

func yamlKey(key string) string {
	if plainKey.MatchString(key) {
		return key // such as raspios_lite_armhf: no number, and no word that YAML knows
	}
	return strconv.QuoteToASCII(key)
}

// equal says whether two locks record the same.
func (l *Lock) equal(other *Lock) bool {
	return l.Epoch.Equal(other.Epoch) && maps.Equal(l.Images, other.Images) &&
		slices.EqualFunc(l.Packages, other.Packages, PackageSet.equal) && slices.Equal(l.Containers, other.Containers)
}

// clone is a copy that can be changed.
func (l *Lock) clone() *Lock {
	c := &Lock{Epoch: l.Epoch, Images: maps.Clone(l.Images), Containers: slices.Clone(l.Containers)}
	for _, s := range l.Packages {
		c.Packages = append(c.Packages, s.clone())
	}
	return c
}

// sort brings the lists into their canonical order, which a merge of two
// versions of the file may have disturbed. That of packages is theirs.
func (l *Lock) sort() {
	for i := range l.Packages {
		l.Packages[i].Wanted = wants(l.Packages[i].Wanted)
	}
	slices.SortFunc(l.Packages, PackageSet.compare)
	slices.SortFunc(l.Containers, Container.compare)
}

// unset says whether the lock has no epoch yet.
func (l *Lock) unset() bool { return l.Epoch.Equal(time.Time{}) }
