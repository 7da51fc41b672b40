package packages_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hatchery/internal/testtool"
)

// scriptsOf is what the builder has recorded.
const scriptsOf = `cgroups all postrm /var/lib/hatchery/packages/old/cgroups.postrm disappear docker.io 1
docker.io all configure /usr/bin/dpkg --force-confdef --force-confold --configure runc
docker.io all preinst /var/lib/dpkg/info/docker.io.preinst install
`

const configured = `postrm disappear docker.io 1 cgroups
runc postinst
preinst install in / 0022: docker.io all preinst 1 root= /var/lib/dpkg noninteractive 1 C.UTF-8 none
docker.io postinst configure 
deb-systemd-helper enable docker.service
deb-systemd-helper enable docker.socket
deb-systemd-invoke start runc.service
invoke-rc.d odd\x2dname start
systemctl start docker.service
load alpine
man-db postinst triggered
`

func TestPackages(t *testing.T) {
	n := newNode(t)
	out, err := n.boot()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if diff := cmp.Diff(configured, n.log()); diff != "" {
		t.Errorf("(-want +got):\n%s\n%s", diff, out)
	}
	n.wantDone("the first boot")
	var told []string
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "now: ") || strings.HasPrefix(line, "loaded: ") || strings.HasPrefix(line, "failed: ") {
			told = append(told, strings.TrimSpace(line))
		}
	}
	want := []string{
		"now: running postrm of cgroups", "now: configuring what docker.io needs beforehand", "now: configuring runc",
		"now: running preinst of docker.io", "now: configuring the packages", "now: configuring docker.io",
		"now: starting the packages' services", "now: loading the container images", "loaded: 6 of 6",
		"now: running the packages' triggers", "now: running the triggers of man-db",
	}
	if diff := cmp.Diff(want, told); diff != "" {
		t.Errorf("told (-want +got):\n%s\n%s", diff, out)
	}
	for _, want := range []string{`msg="packages configured"`, `msg="container images loaded" bytes=6`, `msg="Setting up docker.io (1) ..." program="dpkg --force-confdef --force-confold --no-triggers --configure docker.io"`} {
		if !strings.Contains(out, want) {
			t.Errorf("it does not say %q:\n%s", want, out)
		}
	}
	// At the next boots there is nothing to do.
	if out, err := n.boot(); err != nil || out != "" || n.log() != "" {
		t.Errorf("the second time: %v\n%s", err, out)
	}
}

// TestReload: systemd reads its units again where there are others than it has
// read, and only then.
func TestReload(t *testing.T) {
	const once = "systemctl daemon-reload\ndeb-systemd-invoke start runc.service\n"
	for _, test := range []struct {
		summary string
		before  func(n *node)
		reload  bool
	}{
		{"units as they were unpacked", func(n *node) {}, false},
		{"a unit that a script makes", func(n *node) { n.write("unit-comes", "", 0o644) }, true},
		{"a script of System V with no unit of its name", func(n *node) { n.write("script-comes", "", 0o644) }, true},
		{"what was under way when the agent was started again", func(n *node) {
			n.write("var/lib/hatchery/packages/pending", "", 0o644)
			n.must("mv /var/lib/hatchery/packages/pending /var/lib/hatchery/packages/rest; rm /var/lib/hatchery/packages/scripts")
			n.write("usr/local/bin/"+agentName+"-first", "#!/bin/sh\nmkdir -p /run/hatchery; echo deb-systemd-invoke start runc.service >/run/hatchery/later\n", 0o755)
		}, true},
	} {
		n := newNode(t)
		test.before(n)
		var out string
		var err error
		if n.exists("usr/local/bin/" + agentName + "-first") {
			out, err = n.in(agentName + "-first; " + agentName + " </usr/local/bin/sleep")
		} else {
			out, err = n.boot()
		}
		if err != nil {
			t.Fatalf("%s: %v\n%s", test.summary, err, out)
		}
		log := n.log()
		if got := strings.Contains(log, once); got != test.reload || strings.Count(log, "daemon-reload") > 1 {
			t.Errorf("%s: reads them again: %v, want %v\n%s", test.summary, got, test.reload, log)
		}
	}
}

// TestAgain: what fails may be tried again, and says why.
func TestAgain(t *testing.T) {
	const beforehand = "postrm disappear docker.io 1 cgroups\nrunc postinst\n"
	const preinst = "preinst install in / 0022: docker.io all preinst 1 root= /var/lib/dpkg noninteractive 1 C.UTF-8 none\n"
	after := func(line string) string { return configured[strings.Index(configured, line):] }
	for _, test := range []struct {
		summary, fails string
		want, says     string
	}{
		{
			"a preinst", "preinst", beforehand + preinst + "sleep 15\n" + preinst + "sleep 30\n" + after("preinst"),
			"failed: preinst of package docker.io has failed: exit status 1: out of luck: no package is configured",
		},
		{
			// Each time once without triggers, and once with them.
			"Docker's postinst", "docker.io",
			beforehand + preinst + "docker.io postinst configure \ndocker.io postinst configure \nman-db postinst triggered\n" +
				"sleep 15\ndocker.io postinst configure \ndocker.io postinst configure \nsleep 30\n" +
				strings.TrimSuffix(after("docker.io postinst"), "man-db postinst triggered\n"),
			"failed: dpkg cannot configure the packages: exit status 1: ",
		},
		{
			// Its other start is asked for by the package, and is not the test's.
			"Docker does not start", "docker",
			strings.TrimSuffix(configured, after("load alpine")) +
				"man-db postinst triggered\nsleep 15\nsystemctl start docker.service\nsleep 30\nsystemctl start docker.service\nload alpine\n",
			"failed: exit status 1",
		},
		{
			"the images", "load",
			configured + "sleep 15\nsystemctl start docker.service\nload alpine\nsleep 30\nsystemctl start docker.service\nload alpine\n",
			"failed: cannot load the images in /var/lib/hatchery/preload/images.tar into Docker: out of luck",
		},
		{
			"a trigger", "man-db", configured + "sleep 15\nman-db postinst configure\nsleep 30\nman-db postinst configure\n",
			"failed: a package is not configured (dpkg --audit names it): exit status 1: ",
		},
		{
			// It is for whoever looks at that service; nothing waits for it.
			"a service of a package's", "invoke", configured,
			`msg="a service that a package wants is not started" call="deb-systemd-invoke start runc.service" error="exit status 1: no such unit"`,
		},
	} {
		n := newNode(t)
		n.write(test.fails+"-fails", "", 0o644)
		out, err := n.boot()
		if err != nil {
			t.Fatalf("%s: %v\n%s", test.summary, err, out)
		}
		if diff := cmp.Diff(test.want, n.log()); diff != "" {
			t.Errorf("%s (-want +got):\n%s\n%s", test.summary, diff, out)
		}
		if !strings.Contains(out, test.says) {
			t.Errorf("%s: it does not say %q:\n%s", test.summary, test.says, out)
		}
		n.wantDone(test.summary)
	}
}

// TestPackagesOfOthers: Docker does not wait for a package that it does not
// need.
func TestPackagesOfOthers(t *testing.T) {
	n := newNode(t)
	n.must("dpkg --no-triggers --unpack " + n.build("podman"))
	n.write("podman-fails", "", 0o644)
	n.write("usr/local/bin/sleep", "#!/bin/sh\necho \"sleep $1\" >>/log; kill -9 -1\n", 0o755)
	n.log()
	out, err := n.boot()
	if err == nil || !strings.Contains(out, "failed: a package is not configured") {
		t.Errorf("%v\n%s", err, out)
	}
	log := n.log()
	if !strings.Contains(log, "load alpine\n") || !strings.HasSuffix(log, "podman postinst\nsleep 15\n") {
		t.Errorf("log:\n%s\n%s", log, out)
	}
	if n.exists("var/lib/hatchery/packages/pending") || !n.exists("var/lib/hatchery/packages/rest") {
		t.Error("Docker's units are held back")
	}
	// Docker has been started; the next boot is about the other package alone.
	if err := os.Remove(n.path("podman-fails")); err != nil {
		t.Fatal(err)
	}
	if out, err := n.boot(); err != nil || n.log() != "podman postinst\n" {
		t.Errorf("%v\n%s", err, out)
	}
	n.wantDone("after the other package")
}

// TestLeftAlone: scripts of packages that have gone on meanwhile, and those
// that were run.
func TestLeftAlone(t *testing.T) {
	for _, test := range []struct{ summary, before, scripts, want string }{
		{"configured by hand", "dpkg --force-confold --configure docker.io runc", "", ""},
		{"removed by hand", "dpkg --purge docker.io", "", ""},
		{"no such script", "", "none all preinst /none install\n", "runc postinst"},
		{"blank lines, notes, no list's end", "", "\n# a note\ndocker.io all preinst /var/lib/dpkg/info/docker.io.preinst install 0.9 1", "preinst install 0.9 1 in /"},
		{"done", `cp /var/lib/hatchery/packages/scripts /var/lib/hatchery/packages/done`, "", "runc postinst"},
	} {
		n := newNode(t)
		if test.scripts != "" {
			n.write("var/lib/hatchery/packages/scripts", test.scripts, 0o644)
		}
		if test.before != "" {
			n.must(test.before)
		}
		n.log()
		n.write("usr/local/bin/sleep", "#!/bin/sh\nkill -9 -1\n", 0o755)
		out, _ := n.boot()
		log := n.log()
		if !strings.Contains(log, test.want) {
			t.Errorf("%s:\n%s\n%s", test.summary, log, out)
		}
		if !strings.HasPrefix(test.want, "preinst") && strings.Contains(log, "preinst") {
			t.Errorf("%s: the script is run:\n%s", test.summary, log)
		}
		if n.exists("var/lib/hatchery/packages/pending") {
			t.Errorf("%s: packages are pending:\n%s", test.summary, out)
		}
	}
}

// TestBroken: what cannot be read, or is locked, has nothing configured.
func TestBroken(t *testing.T) {
	for _, test := range []struct{ summary, before, says string }{
		{"the list", "echo docker.io all >/var/lib/hatchery/packages/scripts", "failed: /var/lib/hatchery/packages/scripts: line 1 is no script"},
		{"dpkg's database", "echo nonsense >/var/lib/dpkg/status", "failed: cannot read dpkg's database: "},
		{"dpkg itself", `printf '#!/bin/sh\necho hello\n' >/usr/local/bin/dpkg; chmod 755 /usr/local/bin/dpkg`, `failed: dpkg does not tell its version, but "hello"`},
	} {
		n := newNode(t)
		n.must(test.before)
		n.log()
		n.write("usr/local/bin/sleep", "#!/bin/sh\nkill -9 -1\n", 0o755)
		out, err := n.boot()
		if err == nil || !strings.Contains(out, test.says) {
			t.Errorf("%s: %v: it does not say %q:\n%s", test.summary, err, test.says, out)
		}
		if log := n.log(); strings.Contains(log, "postinst") || strings.Contains(log, "systemctl") {
			t.Errorf("%s: log:\n%s", test.summary, log)
		}
		if !n.exists("var/lib/hatchery/packages/pending") {
			t.Errorf("%s: nothing is pending", test.summary)
		}
	}
}

// TestAfterPowerCut cuts the power before and after each step that leaves a
// trace, and each of the calls that packages make meanwhile.
func TestAfterPowerCut(t *testing.T) {
	whole := newNode(t)
	for _, tool := range []string{"mkdir", "touch"} {
		whole.write("usr/local/bin/"+tool, fmt.Sprintf(cutter, "/usr/bin/"+tool), 0o755)
	}
	for tool, text := range standIns {
		whole.write("usr/local/lib/"+tool, "#!/bin/sh\n"+text+"\n", 0o755)
		whole.write("usr/local/bin/"+tool, fmt.Sprintf(cutter, "/usr/local/lib/"+tool), 0o755)
	}
	whole.write("cut/count", "0\n", 0o644)
	cuts, step := 0, 1
	if testing.Short() {
		step = 9
	}
	for at := 1; ; at += step {
		n := &node{t, filepath.Join(t.TempDir(), "root")}
		testtool.Run(t, "cp", "-a", whole.root, n.root)
		n.write("cut/at", fmt.Sprintln(at), 0o644)
		out, err := n.boot()
		n.write("cut/at", "0\n", 0o644)
		if err == nil {
			n.wantDone("uncut")
			break
		}
		cuts++
		before := n.log()
		if strings.Contains(out, "panic") {
			t.Fatalf("cut at call %d:\n%s", at, out)
		}
		out, err = n.boot()
		summary := fmt.Sprintf("cut at call %d", at)
		if err != nil {
			t.Fatalf("%s: %v\n%s", summary, err, out)
		}
		after := n.read("log")
		n.wantDone(summary)
		if strings.Contains(before+after, "docker.service (held)") {
			t.Errorf("%s: Docker was asked to start while it was held back:\n%s%s", summary, before, after)
		}
		// Once and no more, but where the cut came before it was noted.
		if strings.Contains(before, "docker.io postinst") && strings.Contains(after, "preinst") {
			t.Errorf("%s: a script is run again:\n%s--\n%s", summary, before, after)
		}
		if count := strings.Count(before+after, "preinst install"); count < 1 || count > 2 {
			t.Errorf("%s: a script is run %d times", summary, count)
		}
		if err := os.RemoveAll(n.root); err != nil {
			t.Fatal(err)
		}
	}
	if cuts < 40/step {
		t.Errorf("only %d cuts", cuts)
	}
	t.Logf("%d cuts", cuts)
}
