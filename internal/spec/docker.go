package spec

import (
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

var (
	packagePattern      = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+$`)                                        // Debian Policy, section 5.6.1
	versionPattern      = regexp.MustCompile(`^([0-9]+:[0-9][A-Za-z0-9.+~:-]*|[0-9A-Za-z][A-Za-z0-9.+~-]*)$`) // section 5.6.12; dpkg takes a letter at the beginning
	architecturePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9-]*$`)
	sourceNamePattern   = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	suitePattern        = regexp.MustCompile(`^[A-Za-z0-9_.+-]+(/[A-Za-z0-9_.+-]+)*/?$`)

	// The grammar of distribution/reference, in short.
	referencePattern = regexp.MustCompile(`^(([A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\])(:[0-9]{1,5})?/)?[a-z0-9]+([._/-]+[a-z0-9]+)*(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@sha256:[0-9a-f]{64})?$`)
)

func (d *decoder) packages(items []item) []PackageRef {
	var packages []PackageRef
	for _, it := range items {
		ref, ok := d.packageRef(it)
		if !ok {
			continue
		}
		if slices.ContainsFunc(packages, func(p PackageRef) bool { return p.Name == ref.Name }) {
			d.problem(it, "%s is there twice: remove one", quote(ref.Name))
			continue
		}
		packages = append(packages, ref)
	}
	return packages
}

// packageRef reads NAME, NAME=VERSION, or either with an :ARCHITECTURE behind
// the name, as `apt-get install` takes them.
func (d *decoder) packageRef(it item) (PackageRef, bool) {
	name, version, exact := strings.Cut(it.text, "=")
	plain, architecture, foreign := strings.Cut(name, ":")
	switch {
	case strings.Contains(it.text, "/"):
		d.problem(it, "%s is no name of a package: files and NAME/SUITE are not taken; for one version write docker.io=20.10.24+dfsg1-1", quote(it.text))
	case len(name) > 200 || !packagePattern.MatchString(plain) || foreign && !architecturePattern.MatchString(architecture):
		d.problem(it, "%s is not the name of a Debian package", quote(name))
	case exact && version == "":
		d.problem(it, "%s names no version: write one such as docker.io=20.10.24+dfsg1-1, or leave out the =", quote(it.text))
	case exact && (len(version) > 200 || !versionPattern.MatchString(version)):
		d.problem(it, "%s is not the version of a Debian package: write it whole, such as docker.io=20.10.24+dfsg1-1", quote(version))
	default:
		return PackageRef{Name: name, Version: version}, true
	}
	return PackageRef{}, false
}

// aptSource reads a source's name, and gives the key for what is said about it.
func (d *decoder) aptSource(name item, e *Docker) (key, bool) {
	if !sourceNamePattern.MatchString(name.text) {
		d.problem(name, "%s is no name of a source: lower-case letters, digits and inner hyphens", quote(name.text))
		return key{}, false
	}
	s := &AptSource{Name: name.text}
	return key{keys: s.keys(), end: func(d *decoder, at item) {
		d.checkComponents(at, s)
		e.Sources = append(e.Sources, *s)
	}}, true
}

// checkComponents sees that suites have components where they need some, and
// none elsewhere: sources.list(5).
func (d *decoder) checkComponents(at item, s *AptSource) {
	if d.problemsUnder(at.path+".suites") || d.problemsUnder(at.path+".components") {
		return
	}
	if len(s.Suites) == 0 {
		s.Suites = []string{""}
	}
	folders := 0
	for _, suite := range s.Suites {
		if strings.HasSuffix(suite, "/") {
			folders++
		}
	}
	components, said := d.at[at.path+".components"]
	switch {
	case folders == 0 && len(s.Components) == 0:
		at.path = join(at.path, "components")
		if said {
			at = components
		}
		d.problem(at, "is missing: name the components, such as main or stable, as in a line of sources.list")
	case folders > 0 && folders < len(s.Suites):
		d.problem(d.at[at.path+".suites"], "a suite that ends in / has no components, and one that does not needs some: make two sources of them")
	case folders > 0 && len(s.Components) > 0:
		d.problem(components, "a suite that ends in / has no components: leave the key out")
	}
}

func (d *decoder) suites(items []item) []string {
	return d.archiveWords(items, suitePattern, "a suite: write one such as bookworm or bookworm-backports")
}

func (d *decoder) components(items []item) []string {
	return d.archiveWords(items, suitePattern, "a component: write one such as main or stable")
}

// maxArchiveWords is more suites or components than any source has.
const maxArchiveWords = 32

func (d *decoder) archiveWords(items []item, pattern *regexp.Regexp, what string) []string {
	var words []string
	for _, it := range items {
		plain := strings.TrimSuffix(it.text, "/")
		switch {
		case len(it.text) > 200 || it.text != "./" && it.text != "/" && (!pattern.MatchString(it.text) || path.Clean(plain) != plain || strings.HasPrefix(plain, "..")):
			d.problem(it, "%s is not %s", quote(it.text), what)
		case slices.Contains(words, it.text):
			d.problem(it, "%s is there twice: remove one", quote(it.text))
		case len(words) == maxArchiveWords:
			d.problem(it, "is one too many: at most %d", maxArchiveWords)
			return words
		default:
			words = append(words, it.text)
		}
	}
	return words
}

// archiveURI checks the root of an archive, or the beginning of one. Plain
// http is good enough: what comes is verified by the archive's signature.
func (d *decoder) archiveURI(v item) string {
	u, err := url.Parse(v.text)
	switch {
	case !strings.Contains(v.text, "://"):
		d.problem(v, "this is not a URL: it begins with http:// or https://")
	case err != nil || len(v.text) > 1000 || !printableASCII(v.text) || strings.ContainsAny(v.text, ` "<>\^{|}`+"`"):
		d.problem(v, "this is not a URL") // the parser's error may quote a password
	case u.User != nil:
		d.problem(v, "a URL with a user or password in it would end up in other files, such as cluster.lock: use one without")
	case u.Scheme != "http" && u.Scheme != "https":
		d.problem(v, "%s is not supported: use an http or https URL", quote(u.Scheme+":"))
	case u.Hostname() == "":
		d.problem(v, "this is not a URL: it names no server")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.Contains(v.text, "#"):
		d.problem(v, "the URL of an archive ends with a folder: remove the ? or # and what follows")
	case u.Path != "" && path.Clean(u.Path) != strings.TrimRight(u.Path, "/") && strings.Trim(u.Path, "/") != "":
		d.problem(v, "the URL's path has . or .. or // in it: write it plainly")
	default:
		return strings.TrimRight(v.text, "/")
	}
	return ""
}

// mirror reads the beginning of a URI; what takes its place is read by the key
// that it gives.
func (d *decoder) mirror(name item, e *Docker) (key, bool) {
	from := d.archiveURI(name)
	if from == "" {
		return key{}, false
	}
	if _, twice := e.Mirrors[from]; twice {
		d.problem(name, "is there twice, but for a / at its end: remove one")
		return key{}, false
	}
	return key{text: func(d *decoder, v item) {
		if to := d.archiveURI(v); to != "" {
			if e.Mirrors == nil {
				e.Mirrors = map[string]string{}
			}
			e.Mirrors[from] = to
		}
	}}, true
}

// IsLocalImage says whether an entry of docker.preload is a path, not the
// reference of an image in a registry. A reference begins with neither a dot
// nor a slash.
func IsLocalImage(text string) bool {
	return strings.HasPrefix(text, ".") || strings.HasPrefix(text, "~") || strings.HasPrefix(text, "/") || filepath.IsAbs(text)
}

func (d *decoder) preload(items []item) []string {
	var images []string
	for _, it := range items {
		image, ok := it.text, false
		if IsLocalImage(it.text) {
			image, ok = d.localImage(it)
		} else {
			ok = d.reference(it)
		}
		switch {
		case !ok:
		case slices.Contains(images, image):
			d.problem(it, "%s is there twice: remove one", quote(it.text))
		default:
			images = append(images, image)
		}
	}
	return images
}

func (d *decoder) reference(it item) bool {
	scheme, _, isURL := strings.Cut(it.text, "://")
	switch lower := strings.ToLower(it.text); {
	case isURL:
		d.problem(it, "%s is not a container image: leave out %s", quote(it.text), quote(scheme+"://"))
	case isArchiveName(lower):
		d.problem(it, "%s would be looked for in a registry: the name of a file begins with ./", quote(it.text))
	case len(it.text) > 512 || !referencePattern.MatchString(lower):
		d.problem(it, "%s is not a container image: write one such as alpine:3.20", quote(it.text))
	case !referencePattern.MatchString(it.text):
		d.problem(it, "%s is not a container image: its name has no capitals", quote(it.text))
	case untagged(it.text):
		name, _, _ := strings.Cut(it.text, "@")
		d.problem(it, "%s has a digest but no tag, and a node calls an image that it has loaded by its tag: write %s before the @", quote(it.text), quote(name+":TAG"))
	default:
		return true
	}
	return false
}

// untagged says whether a reference has a digest alone.
func untagged(reference string) bool {
	name, _, exact := strings.Cut(reference, "@")
	return exact && !strings.Contains(path.Base(name), ":")
}

func isArchiveName(lower string) bool {
	return slices.ContainsFunc([]string{".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.xz"}, func(suffix string) bool { return strings.HasSuffix(lower, suffix) })
}

// localImage resolves the path of an archive, or of a folder in the layout of
// the OCI image specification.
func (d *decoder) localImage(it item) (string, bool) {
	place, err := d.resolvePath(it.text)
	if err != nil {
		d.problem(it, "%s", err)
		return "", false
	}
	info, err := os.Stat(place)
	switch {
	case os.IsNotExist(err):
		d.problem(it, "the image %s does not exist%s", quote(it.text), d.relativeTo(it.text))
	case err != nil:
		d.problem(it, "the image %s cannot be read: %s", quote(it.text), reason(err))
	case info.IsDir():
		if _, err := os.Stat(filepath.Join(place, "index.json")); err != nil {
			d.problem(it, "the folder %s is no OCI layout: it has no index.json", quote(it.text))
			return "", false
		}
		return place, true
	case !info.Mode().IsRegular():
		d.problem(it, "%s is %s, neither a file nor a folder", quote(it.text), fileKind(info.Mode()))
	default:
		return place, true
	}
	return "", false
}

// checkPreload sees that something is there to load images into.
func (d *decoder) checkPreload(e *Docker) {
	preload, said := d.at["docker.preload"]
	if said && len(e.Preload) > 0 && len(e.Packages) == 0 && !d.problemsUnder("docker.packages") {
		d.problem(preload, "`docker.packages` is empty, so there is no Docker to load images: leave one of the two out")
	}
}

// cpuException reads FILE or PACKAGE:FILE; the reason is read by the key that
// it gives.
func (d *decoder) cpuException(name item, c *CPU) (key, bool) {
	e := CPUException{Path: name.text}
	if !strings.HasPrefix(name.text, "/") {
		owner, file, _ := strings.Cut(name.text, ":/")
		e.Package, e.Path = owner, "/"+file
		if !d.cpuOwner(name, &e) {
			return key{}, false
		}
	}
	plain := strings.TrimSuffix(e.Path, "*")
	switch {
	case len(e.Path) > 1000 || strings.IndexFunc(e.Path, func(r rune) bool { return !strconv.IsPrint(r) }) >= 0 || path.Clean(e.Path) != e.Path || e.Path == "/":
		d.problem(name, "%s is no file in an image: write an absolute path without . and .., such as /opt/tool/run, or /opt/tool/* for all of a folder", quote(name.text))
		return key{}, false
	case strings.Contains(plain, "*"):
		d.problem(name, "%s: a * may stand at the end only", quote(name.text))
		return key{}, false
	case plain == "/" && e.Package == "":
		d.problem(name, "this would let everything pass: name the package, or the folder that the files lie in")
		return key{}, false
	}
	return key{text: func(d *decoder, v item) {
		e.Reason = strings.TrimSpace(v.text)
		if e.Reason == "" || len(e.Reason) > 500 || strings.IndexFunc(e.Reason, func(r rune) bool { return !strconv.IsPrint(r) }) >= 0 {
			d.problem(v, "write in one line why the file may pass: it is said wherever the check is")
			return
		}
		c.Allow = append(c.Allow, e)
	}}, true
}

// cpuOwner checks what brings the file: a package, or an image of docker.preload.
func (d *decoder) cpuOwner(name item, e *CPUException) bool {
	switch {
	case !strings.Contains(name.text, ":/"):
		d.problem(name, "%s is no file in an image: write an absolute path, or package:/path", quote(name.text))
	case IsLocalImage(e.Package):
		place, err := d.resolvePath(e.Package)
		if err != nil {
			d.problem(name, "%s", err)
			return false
		}
		e.Package = place
		return true
	case len(e.Package) > 512 || !packagePattern.MatchString(e.Package) && !referencePattern.MatchString(e.Package):
		d.problem(name, "%s is neither a package nor a container image", quote(e.Package))
	default:
		return true
	}
	return false
}
