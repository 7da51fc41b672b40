// Package spdx writes down what an image is made of, Debian packages and
// container images, as a software bill of materials: SPDX 2.3 in JSON, which
// scanners for vulnerabilities and licences read
// (https://spdx.github.io/spdx-spec/v2.3/).
//
// Equal documents give equal bytes: the order of packages does not matter, the
// time is the caller's, and the namespace, which must differ for different
// documents, is made of their content.
package spdx

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"
)

// A Document says what an image is made of.
type Document struct {
	Name    string    // of the image: "p1"
	Created time.Time // the epoch of the build: everything in an image has that time
	// Tool wrote the document: "hatchery-1.2", name and version.
	Tool string
	// SHA256 is the image's digest in hexadecimal; empty where it is not
	// known.
	SHA256     string
	Packages   []Package
	Containers []Container
}

// A Package is a Debian package in the image.
type Package struct {
	Name, Version, Architecture string
	// SHA256 is the .deb's digest in hexadecimal; empty for a package that
	// was there before, of which nobody kept the .deb.
	SHA256 string
	// URL is where the .deb came from; empty where that is not known. A
	// password in it is left out.
	URL string
	// Vendor is who made the distribution, as package URLs name it:
	// "debian", "raspbian"; empty is debian.
	Vendor string
	// Distribution is the release: "debian-12", "bookworm"; may be empty.
	Distribution string
	// Supplier is the organization that handed the package out ("Debian":
	// the Origin of its archive); may be empty.
	Supplier string
	// Source is the source package, where it has another name or version:
	// "glibc (2.36-9)", as the field Source has it; may be empty.
	Source string
}

// A Container is a container image in the image.
type Container struct {
	// Name is how the node's engine calls it:
	// "docker.io/library/alpine:3.20".
	Name     string
	Digest   string // of the platform's manifest: "sha256:…"
	Platform string // "linux/arm/v6"
	// Local: it came from a file of the user's, not from the registry that
	// the name may seem to tell of.
	Local bool
}

// The parts of an SPDX document, as its JSON schema has them.
type document struct {
	Version       string         `json:"spdxVersion"`
	License       string         `json:"dataLicense"`
	ID            string         `json:"SPDXID"`
	Name          string         `json:"name"`
	Namespace     string         `json:"documentNamespace"`
	Creation      creation       `json:"creationInfo"`
	Packages      []element      `json:"packages"`
	Relationships []relationship `json:"relationships"`
}

type creation struct {
	Created  string   `json:"created"`
	Creators []string `json:"creators"`
}

type element struct {
	ID               string      `json:"SPDXID"`
	Name             string      `json:"name"`
	Version          string      `json:"versionInfo,omitempty"`
	FileName         string      `json:"packageFileName,omitempty"`
	Supplier         string      `json:"supplier,omitempty"`
	DownloadLocation string      `json:"downloadLocation"`
	FilesAnalyzed    bool        `json:"filesAnalyzed"`
	Checksums        []checksum  `json:"checksums,omitempty"`
	SourceInfo       string      `json:"sourceInfo,omitempty"`
	LicenseConcluded string      `json:"licenseConcluded"`
	LicenseDeclared  string      `json:"licenseDeclared"`
	Copyright        string      `json:"copyrightText"`
	Comment          string      `json:"comment,omitempty"`
	Refs             []reference `json:"externalRefs,omitempty"`
	Purpose          string      `json:"primaryPackagePurpose,omitempty"`
}

type checksum struct {
	Algorithm string `json:"algorithm"`
	Value     string `json:"checksumValue"`
}

type reference struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

type relationship struct {
	Element string `json:"spdxElementId"`
	Kind    string `json:"relationshipType"`
	Related string `json:"relatedSpdxElement"`
}

const (
	documentID = "SPDXRef-DOCUMENT"
	imageID    = "SPDXRef-Image"
	// unknown is what SPDX writes where nothing is known or claimed.
	unknown = "NOASSERTION"
	// namespaces is where documents have their names whose makers have no
	// place of their own (SPDX 2.3, 6.5.4).
	namespaces = "https://spdx.org/spdxdocs/"
)

// Write writes the document. Its errors are w's own, or say what is missing
// in d.
func Write(w io.Writer, d Document) error {
	doc, err := d.spdx()
	if err != nil {
		return fmt.Errorf("cannot write the SPDX document of %q: %w", d.Name, err)
	}
	text, err := encode(doc)
	if err != nil {
		return fmt.Errorf("cannot write the SPDX document of %q: %w", d.Name, err)
	}
	sum := sha256.Sum256(text)
	doc.Namespace = namespaces + escaped(d.Name) + "-" + uuid(sum)
	if text, err = encode(doc); err != nil {
		return fmt.Errorf("cannot write the SPDX document of %q: %w", d.Name, err)
	}
	_, err = w.Write(text)
	return err
}

func encode(doc *document) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // package URLs have &
	e.SetIndent("", "  ")
	err := e.Encode(doc)
	return b.Bytes(), err
}

// uuid makes a UUID (RFC 9562, version 8) of a digest.
func uuid(sum [sha256.Size]byte) string {
	sum[6] = sum[6]&0x0f | 0x80
	sum[8] = sum[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", sum[:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
}

func (d Document) spdx() (*document, error) {
	switch {
	case d.Name == "":
		return nil, errors.New("the image has no name")
	case d.Tool == "":
		return nil, errors.New("nobody is named who wrote it")
	}
	image := newElement(imageID, d.Name)
	image.Purpose = "OPERATING_SYSTEM"
	if err := image.setSHA256(d.SHA256); err != nil {
		return nil, fmt.Errorf("the image: %w", err)
	}
	doc := &document{
		Version: "SPDX-2.3", License: "CC0-1.0", ID: documentID, Name: d.Name,
		Creation: creation{
			Created:  d.Created.UTC().Format("2006-01-02T15:04:05Z"),
			Creators: []string{"Tool: " + line(d.Tool)},
		},
		Packages:      []element{image},
		Relationships: []relationship{{documentID, "DESCRIBES", imageID}},
	}
	var parts []element
	for _, p := range d.Packages {
		e, err := p.element()
		if err != nil {
			return nil, fmt.Errorf("the package %q: %w", p.Name, err)
		}
		parts = append(parts, e)
	}
	slices.SortFunc(parts, compare)
	var containers []element
	for _, c := range d.Containers {
		e, err := c.element()
		if err != nil {
			return nil, fmt.Errorf("the container image %q: %w", c.Name, err)
		}
		containers = append(containers, e)
	}
	slices.SortFunc(containers, compare)
	seen := map[string]bool{}
	for _, e := range append(parts, containers...) {
		if seen[e.ID] {
			return nil, fmt.Errorf("%s is there twice", e.Refs[0].Locator)
		}
		seen[e.ID] = true
		doc.Packages = append(doc.Packages, e)
		doc.Relationships = append(doc.Relationships, relationship{imageID, "CONTAINS", e.ID})
	}
	return doc, nil
}

func compare(a, b element) int {
	return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Refs[0].Locator, b.Refs[0].Locator))
}

func newElement(id, name string) element {
	return element{
		ID: id, Name: line(name), DownloadLocation: unknown,
		LicenseConcluded: unknown, LicenseDeclared: unknown, Copyright: unknown,
	}
}

func (e *element) setSHA256(value string) error {
	if value == "" {
		return nil
	}
	if sum, err := hex.DecodeString(value); err != nil || len(sum) != sha256.Size || strings.ToLower(value) != value {
		return fmt.Errorf("%q is no SHA-256 in hexadecimal", value)
	}
	e.Checksums = []checksum{{"SHA256", value}}
	return nil
}

// identify gives the element its package URL, and an identifier made of it.
func (e *element) identify(prefix, name, purl string) {
	e.Refs = []reference{{"PACKAGE-MANAGER", "purl", purl}}
	sum := sha256.Sum256([]byte(purl))
	// The digest tells apart what the identifier's few characters cannot.
	e.ID = "SPDXRef-" + prefix + "-" + identifier(name) + "-" + hex.EncodeToString(sum[:6])
}

func (p Package) element() (element, error) {
	if p.Name == "" || p.Version == "" || p.Architecture == "" {
		return element{}, fmt.Errorf("it needs a name, a version and an architecture, and has %q, %q and %q", p.Name, p.Version, p.Architecture)
	}
	e := newElement("", p.Name)
	e.Version = line(p.Version)
	e.identify("Package", p.Name, p.purl())
	if err := e.setSHA256(p.SHA256); err != nil {
		return e, err
	}
	if p.URL != "" {
		u, err := url.Parse(p.URL)
		if err != nil || u.Scheme == "" {
			return e, fmt.Errorf("%q is no URL", p.URL)
		}
		u.User = nil
		u.Fragment = ""
		e.DownloadLocation = u.String()
		e.FileName = path.Base(u.Path)
	}
	e.Supplier = unknown
	if p.Supplier != "" {
		e.Supplier = "Organization: " + line(p.Supplier)
	}
	if p.Source != "" {
		e.SourceInfo = "built from the source package " + line(p.Source)
	}
	return e, nil
}

func (c Container) element() (element, error) {
	value, ok := strings.CutPrefix(c.Digest, "sha256:")
	if c.Name == "" || !ok || value == "" {
		return element{}, fmt.Errorf("it needs a name and a digest, and has %q and %q", c.Name, c.Digest)
	}
	_, _, tag := c.split()
	e := newElement("", c.Name)
	e.Version = line(tag)
	if e.Version == "" {
		e.Version = c.Digest
	}
	e.Purpose = "CONTAINER"
	e.identify("Container", c.Name, c.purl())
	if err := e.setSHA256(value); err != nil {
		return e, err
	}
	e.Supplier = unknown
	e.Comment = "The checksum is that of the image's manifest."
	if c.Platform != "" {
		e.Comment = "The image for " + line(c.Platform) + "; the checksum is that of its manifest."
	}
	return e, nil
}

// identifier leaves of a name what an SPDX identifier may have.
func identifier(name string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '.', r == '-':
			return r
		}
		return '-'
	}, name)
}

// line makes a text one line.
func line(s string) string { return strings.Join(strings.Fields(s), " ") }
