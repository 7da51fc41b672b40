package spdx_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"hatchery/imagebuilder/spdx"
)

var update = flag.Bool("update", false, "write testdata anew")

func hash(c string) string { return strings.Repeat(c, 64) }

func example() spdx.Document {
	return spdx.Document{
		Name: "p1", Tool: "hatchery-1.0", SHA256: hash("0"),
		Created: time.Date(2024, 7, 4, 14, 3, 2, 500, time.FixedZone("", 7200)),
		Packages: []spdx.Package{
			{
				Name: "docker.io", Version: "20.10.24+dfsg1-1+deb12u1+b6", Architecture: "armel", SHA256: hash("a"),
				URL:          "https://user:secret@archive.example/debian/pool/main/d/docker.io/docker.io_20.10.24+dfsg1-1+deb12u1+b6_armel.deb",
				Distribution: "debian-12", Supplier: "Debian", Source: "docker.io (20.10.24+dfsg1-1+deb12u1)",
			},
			{
				Name: "libstdc++6", Version: "12.2.0-14+rpi1", Architecture: "armhf", SHA256: hash("b"),
				URL: "http://archive.example/raspbian/pool/main/g/gcc-12/libstdc++6_12.2.0-14+rpi1_armhf.deb", Vendor: "raspbian", Distribution: "bookworm",
			},
			{Name: "bsdutils", Version: "1:2.38.1-5~deb12u3", Architecture: "armel", Distribution: "debian-12"},
			{Name: "libc6", Version: "2.36-9", Architecture: "armhf", SHA256: hash("c")},
			{Name: "libc6", Version: "2.36-9", Architecture: "armel", SHA256: hash("d")},
		},
		Containers: []spdx.Container{
			{Name: "docker.io/library/alpine:3.20", Digest: "sha256:" + hash("e"), Platform: "linux/arm/v6"},
			{Name: "registry.example:5000/team/web", Digest: "sha256:" + hash("f"), Platform: "linux/arm64"},
			{Name: "docker.io/library/own:1", Digest: "sha256:" + hash("1"), Platform: "linux/arm/v6", Local: true},
		},
	}
}

func write(t testing.TB, d spdx.Document) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := spdx.Write(&b, d); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestWrite(t *testing.T) {
	got := write(t, example())
	const golden = "testdata/p1.spdx.json"
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, problem := range check(got) {
		t.Error(problem)
	}
}

// TestPURL: package URLs are in the form that their specification calls
// canonical.
func TestPURL(t *testing.T) {
	text := string(write(t, example()))
	for _, want := range []string{
		"pkg:deb/debian/docker.io@20.10.24%2Bdfsg1-1%2Bdeb12u1%2Bb6?arch=armel&distro=debian-12",
		"pkg:deb/raspbian/libstdc%2B%2B6@12.2.0-14%2Brpi1?arch=armhf&distro=bookworm",
		"pkg:deb/debian/bsdutils@1:2.38.1-5~deb12u3?arch=armel&distro=debian-12",
		"pkg:deb/debian/libc6@2.36-9?arch=armhf",
		"pkg:oci/alpine@sha256:" + hash("e") + "?arch=arm&repository_url=docker.io%2Flibrary%2Falpine&tag=3.20",
		"pkg:oci/web@sha256:" + hash("f") + "?arch=arm64&repository_url=registry.example:5000%2Fteam%2Fweb",
		"pkg:oci/own@sha256:" + hash("1") + "?arch=arm&tag=1",
	} {
		if !strings.Contains(text, `"referenceLocator": "`+want+`"`) {
			t.Errorf("there is no %s", want)
		}
	}
}

// TestSameBytes: the order in which a caller has the packages is of no
// importance, and any other difference makes another document.
func TestSameBytes(t *testing.T) {
	want := write(t, example())
	d := example()
	slices.Reverse(d.Packages)
	slices.Reverse(d.Containers)
	if got := write(t, d); !bytes.Equal(got, want) {
		t.Errorf("in another order:\n%s", cmp.Diff(string(want), string(got)))
	}
	namespaces := map[string]bool{}
	for i, change := range []func(*spdx.Document){
		func(*spdx.Document) {},
		func(d *spdx.Document) { d.Created = d.Created.Add(time.Second) },
		func(d *spdx.Document) { d.SHA256 = hash("9") },
		func(d *spdx.Document) { d.Packages = d.Packages[1:] },
		func(d *spdx.Document) { d.Packages[0].SHA256 = hash("9") },
		func(d *spdx.Document) { d.Containers[0].Digest = "sha256:" + hash("9") },
		func(d *spdx.Document) { d.Containers = nil },
		func(d *spdx.Document) { d.Name = "p 2#" },
	} {
		d := example()
		change(&d)
		text := write(t, d)
		for _, problem := range check(text) {
			t.Errorf("change %d: %s", i, problem)
		}
		var doc struct {
			Namespace string `json:"documentNamespace"`
		}
		if err := json.Unmarshal(text, &doc); err != nil {
			t.Fatal(err)
		}
		if namespaces[doc.Namespace] {
			t.Errorf("change %d: the namespace is another document's", i)
		}
		namespaces[doc.Namespace] = true
	}
}

func TestNoSecret(t *testing.T) {
	if text := write(t, example()); bytes.Contains(text, []byte("secret")) {
		t.Error("the password of a URL is in the document")
	}
}

// TestEmpty: an image without Docker is described all the same.
func TestEmpty(t *testing.T) {
	for _, problem := range check(write(t, spdx.Document{Name: "controller", Tool: "hatchery"})) {
		t.Error(problem)
	}
}

func TestRefused(t *testing.T) {
	for _, c := range []struct {
		summary string
		change  func(*spdx.Document)
		want    string
	}{
		{"no name", func(d *spdx.Document) { d.Name = "" }, "the image has no name"},
		{"no tool", func(d *spdx.Document) { d.Tool = "" }, "nobody is named"},
		{"no digest", func(d *spdx.Document) { d.SHA256 = "1234" }, `the image: "1234" is no SHA-256`},
		{"capitals", func(d *spdx.Document) { d.Packages[0].SHA256 = hash("A") }, `the package "docker.io": "AAAA`},
		{"no version", func(d *spdx.Document) { d.Packages[0].Version = "" }, `the package "docker.io": it needs a name, a version`},
		{"no URL", func(d *spdx.Document) { d.Packages[0].URL = "pool/main" }, `"pool/main" is no URL`},
		{"twice", func(d *spdx.Document) { d.Packages = append(d.Packages, d.Packages[0]) }, "pkg:deb/debian/docker.io@20.10.24%2Bdfsg1-1%2Bdeb12u1%2Bb6?arch=armel&distro=debian-12 is there twice"},
		{"a container without digest", func(d *spdx.Document) { d.Containers[0].Digest = "" }, "it needs a name and a digest"},
		{"another digest", func(d *spdx.Document) { d.Containers[0].Digest = "sha512:" + hash("e") + hash("e") }, "it needs a name and a digest"},
		{"a short digest", func(d *spdx.Document) { d.Containers[0].Digest = "sha256:e" }, `"e" is no SHA-256`},
	} {
		t.Run(c.summary, func(t *testing.T) {
			d := example()
			c.change(&d)
			var b bytes.Buffer
			err := spdx.Write(&b, d)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("the error is %v", err)
			}
			if b.Len() > 0 {
				t.Error("something is written all the same")
			}
		})
	}
	full := errors.New("no space left on device")
	if err := spdx.Write(failing{full}, example()); !errors.Is(err, full) {
		t.Errorf("the writer's error becomes %v", err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

// An object is what the JSON schema of SPDX 2.3 says of one: which properties
// there may be (no others are allowed), with what in them, and which must be.
type object struct {
	required   []string
	properties map[string]rule
}

// A rule looks at a value and says what is wrong with it.
type rule func(at string, value any) []string

var (
	idPattern      = regexp.MustCompile(`^SPDXRef-[A-Za-z0-9.-]+$`)
	createdPattern = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$`)
	agentPattern   = regexp.MustCompile(`^(NOASSERTION|(Organization|Person): \S.*)$`)
	creatorPattern = regexp.MustCompile(`^(Tool|Organization|Person): \S.*$`)
	hexPattern     = regexp.MustCompile(`^[0-9a-f]{64}$`)
	purlPattern    = regexp.MustCompile(`^pkg:[a-z]+(/[A-Za-z0-9._~:%-]+)+@[A-Za-z0-9._~:%-]+(\?[a-z_]+=[A-Za-z0-9._~:%-]+(&[a-z_]+=[A-Za-z0-9._~:%-]+)*)?$`)
	linePattern    = regexp.MustCompile(`^[^\n]+$`)
)

func matches(re *regexp.Regexp) rule {
	return func(at string, value any) []string {
		if s, ok := value.(string); !ok || !re.MatchString(s) {
			return []string{fmt.Sprintf("%s: %v is not like %s", at, value, re)}
		}
		return nil
	}
}

func oneOf(words ...string) rule {
	return func(at string, value any) []string {
		if s, ok := value.(string); !ok || !slices.Contains(words, s) {
			return []string{fmt.Sprintf("%s: %v is none of %q", at, value, words)}
		}
		return nil
	}
}

func list(least int, each rule) rule {
	return func(at string, value any) (problems []string) {
		items, ok := value.([]any)
		if !ok || len(items) < least {
			return []string{fmt.Sprintf("%s: is no list of at least %d", at, least)}
		}
		for i, item := range items {
			problems = append(problems, each(fmt.Sprintf("%s[%d]", at, i), item)...)
		}
		return problems
	}
}

func (o object) rule(at string, value any) (problems []string) {
	fields, ok := value.(map[string]any)
	if !ok {
		return []string{at + ": is no object"}
	}
	for _, name := range o.required {
		if _, ok := fields[name]; !ok {
			problems = append(problems, at+": "+name+" is missing")
		}
	}
	for name, value := range fields {
		rule, ok := o.properties[name]
		if !ok {
			problems = append(problems, at+": "+name+" is no property")
			continue
		}
		problems = append(problems, rule(at+"."+name, value)...)
	}
	return problems
}

func boolean(at string, value any) []string {
	if _, ok := value.(bool); !ok {
		return []string{at + ": is neither true nor false"}
	}
	return nil
}

func location(at string, value any) []string {
	s, _ := value.(string)
	if s == "NOASSERTION" || s == "NONE" {
		return nil
	}
	if u, err := url.Parse(s); err != nil || !u.IsAbs() || strings.ContainsAny(s, " \n") {
		return []string{fmt.Sprintf("%s: %v is no URI", at, value)}
	}
	return nil
}

func namespace(at string, value any) []string {
	if s, _ := value.(string); strings.Contains(s, "#") || location(at, value) != nil {
		return []string{fmt.Sprintf("%s: %v is no URI without a fragment", at, value)}
	}
	return nil
}

// schema has the rules of SPDX 2.3, of the schema and of the text (clauses 6,
// 7 and 11), for all that is written here.
var schema = object{
	[]string{"SPDXID", "creationInfo", "dataLicense", "name", "spdxVersion", "documentNamespace"},
	map[string]rule{
		"SPDXID": oneOf("SPDXRef-DOCUMENT"), "spdxVersion": oneOf("SPDX-2.3"), "dataLicense": oneOf("CC0-1.0"),
		"name": matches(linePattern), "documentNamespace": namespace,
		"creationInfo": object{[]string{"created", "creators"}, map[string]rule{
			"created": matches(createdPattern), "creators": list(1, matches(creatorPattern)),
		}}.rule,
		"packages": list(0, object{[]string{"SPDXID", "downloadLocation", "name"}, map[string]rule{
			"SPDXID": matches(idPattern), "name": matches(linePattern), "versionInfo": matches(linePattern),
			"packageFileName": matches(linePattern), "supplier": matches(agentPattern), "downloadLocation": location,
			"filesAnalyzed": boolean, "sourceInfo": matches(linePattern), "comment": matches(linePattern),
			"licenseConcluded": oneOf("NOASSERTION"), "licenseDeclared": oneOf("NOASSERTION"), "copyrightText": oneOf("NOASSERTION"),
			"primaryPackagePurpose": oneOf("OTHER", "INSTALL", "ARCHIVE", "FIRMWARE", "APPLICATION", "FRAMEWORK", "LIBRARY", "CONTAINER", "SOURCE", "DEVICE", "OPERATING_SYSTEM", "FILE"),
			"checksums": list(1, object{[]string{"algorithm", "checksumValue"}, map[string]rule{
				"algorithm": oneOf("SHA256"), "checksumValue": matches(hexPattern),
			}}.rule),
			"externalRefs": list(1, object{[]string{"referenceCategory", "referenceLocator", "referenceType"}, map[string]rule{
				"referenceCategory": oneOf("PACKAGE-MANAGER"), "referenceType": oneOf("purl"), "referenceLocator": matches(purlPattern),
			}}.rule),
		}}.rule),
		"relationships": list(1, object{[]string{"spdxElementId", "relatedSpdxElement", "relationshipType"}, map[string]rule{
			"spdxElementId": matches(idPattern), "relatedSpdxElement": matches(idPattern), "relationshipType": oneOf("DESCRIBES", "CONTAINS"),
		}}.rule),
	},
}

// check says what is wrong with a document.
func check(text []byte) []string {
	var doc any
	if err := json.Unmarshal(text, &doc); err != nil {
		return []string{err.Error()}
	}
	problems := schema.rule("document", doc)
	if len(problems) > 0 {
		return problems
	}
	// Every identifier is there once, and every part hangs on the image.
	ids := map[string]bool{"SPDXRef-DOCUMENT": true}
	root := doc.(map[string]any)
	for _, p := range root["packages"].([]any) {
		p := p.(map[string]any)
		id := p["SPDXID"].(string)
		if ids[id] {
			problems = append(problems, id+" is there twice")
		}
		ids[id] = true
		if p["filesAnalyzed"] != false {
			problems = append(problems, id+" has files that were looked at, and no verification code")
		}
	}
	related := map[string]bool{"SPDXRef-DOCUMENT": true}
	for _, r := range root["relationships"].([]any) {
		r := r.(map[string]any)
		from, to := r["spdxElementId"].(string), r["relatedSpdxElement"].(string)
		if !ids[from] || !ids[to] {
			problems = append(problems, fmt.Sprintf("a relationship of %s and %s, which are not both there", from, to))
		}
		if (r["relationshipType"] == "DESCRIBES") != (from == "SPDXRef-DOCUMENT") {
			problems = append(problems, from+" "+fmt.Sprint(r["relationshipType"])+" "+to)
		}
		related[to] = true
	}
	for id := range ids {
		if !related[id] {
			problems = append(problems, id+" has no relationship")
		}
	}
	slices.Sort(problems)
	return problems
}
