package page_test

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"hatchery/controller"
	"hatchery/internal/enrol"
	"hatchery/internal/testtool"
)

// shots is where the screenshots are kept.
const shots = "../../build/page"

// A tab of a headless Chromium, which has never been used before.
type tab struct {
	t   *testing.T
	ctx context.Context

	mu       sync.Mutex
	problems []string
}

// browse starts Chromium. It reaches nothing but this machine.
func browse(t *testing.T, home string, more ...chromedp.ExecAllocatorOption) *tab {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a browser")
	}
	chromium := testtool.Need(t, "chromium")
	options := append([]chromedp.ExecAllocatorOption{
		chromedp.ExecPath(chromium), chromedp.UserDataDir(t.TempDir()), chromedp.Headless, chromedp.NoSandbox, chromedp.NoFirstRun, chromedp.NoDefaultBrowserCheck, chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true), chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true),
		chromedp.Flag("disable-dev-shm-usage", true), chromedp.Flag("hide-scrollbars", true), chromedp.Flag("no-proxy-server", true),
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"),
		chromedp.Env("HOME=" + home), chromedp.WSURLReadTimeout(2 * time.Minute),
	}, more...)
	// Its own end is asked for at the test's: what is left is killed with the process.
	allocator, release := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(release)
	ctx, leave := chromedp.NewContext(allocator)
	t.Cleanup(leave)
	ctx, late := context.WithTimeout(ctx, 8*time.Minute)
	t.Cleanup(late)
	b := &tab{t: t, ctx: ctx}
	// What the policy refuses, and what the script does wrong, is told there.
	err := chromedp.Listen(ctx, func(event any) {
		b.mu.Lock()
		defer b.mu.Unlock()
		switch e := event.(type) {
		case *runtime.EventExceptionThrown:
			b.problems = append(b.problems, fmt.Sprintf("%s (%s:%d)", e.ExceptionDetails.Text, e.ExceptionDetails.URL, e.ExceptionDetails.LineNumber+1))
		case *log.EventEntryAdded:
			if e.Entry.Level == log.EntryLevelError {
				b.problems = append(b.problems, e.Entry.Text+" "+e.Entry.URL)
			}
		}
	})
	if err != nil {
		t.Fatalf("Chromium does not start: %v", err)
	}
	return b
}

// do does things, one after the other.
func (b *tab) do(what string, actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	if err := chromedp.Do(b.ctx, actions...); err != nil {
		b.t.Fatalf("%s: %v (the browser told of %q)", what, err, b.told())
	}
}

// evaluate is what an expression of JavaScript gives.
func evaluate[T any](b *tab, expression string, options ...chromedp.EvaluateOption) T {
	b.t.Helper()
	v, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](expression, options...))
	if err != nil {
		b.t.Fatalf("%s: %v", expression, err)
	}
	return v
}

// told is what the browser complained of since it was asked last.
func (b *tab) told() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	told := b.problems
	b.problems = nil
	return told
}

// quiet sees that the browser had nothing to complain of.
func (b *tab) quiet(when string) {
	b.t.Helper()
	if told := b.told(); len(told) > 0 {
		b.t.Errorf("%s, the browser tells of %q", when, told)
	}
}

// holds waits until an expression is true.
func (b *tab) holds(what, expression string) {
	b.t.Helper()
	good := false
	for deadline := time.Now().Add(time.Minute); !good; time.Sleep(20 * time.Millisecond) {
		good = evaluate[bool](b, "!!("+expression+")")
		if !good && time.Now().After(deadline) {
			b.t.Fatalf("%s: %s does not come true on\n%s", what, expression, evaluate[string](b, "document.body.innerText"))
		}
	}
}

// reads waits until an element has a text.
func (b *tab) reads(id, text string) {
	b.t.Helper()
	b.holds(id+" reads "+text, fmt.Sprintf("document.getElementById(%q).innerText.includes(%q)", id, text))
}

// click presses a button as a person does, once it is there: the buttons of actions are when
// the token was found good.
func (b *tab) click(selector string) {
	b.t.Helper()
	b.do("click "+selector, chromedp.WaitVisible(chromedp.CSS(selector)), chromedp.ScrollIntoView(chromedp.CSS(selector)), chromedp.Click(chromedp.CSS(selector), chromedp.NodeVisible))
}

// shot keeps a screenshot of the whole page.
func (b *tab) shot(name string) {
	b.t.Helper()
	evaluate[bool](b, "document.activeElement.blur(), scrollTo(0, 0), true")
	picture, err := chromedp.Run(b.ctx, chromedp.FullScreenshot(100))
	if err != nil {
		b.t.Fatal(err)
	}
	if err := os.MkdirAll(shots, 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(shots, name+".png"), picture, 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// looks sets how large the window is, and if it is dark.
func (b *tab) looks(width, height int64, scale float64, phone, dark bool) {
	b.t.Helper()
	scheme := "light"
	if dark {
		scheme = "dark"
	}
	options := []chromedp.EmulateViewportOption{chromedp.EmulateScale(scale)}
	if phone {
		options = append(options, chromedp.EmulateMobile, chromedp.EmulateTouch)
	}
	b.do("the window", chromedp.EmulateViewport(width, height, options...))
	if _, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
	}); err != nil {
		b.t.Fatal(err)
	}
}

func TestBrowser(t *testing.T) {
	c := newCluster()
	s := serve(t, c, nil)
	b := browse(t, t.TempDir())
	b.looks(1280, 900, 1, false, false)
	b.do("open", chromedp.Navigate("http://"+s.plain+"/"), chromedp.WaitVisible(chromedp.CSS("#p4")))
	b.reads("stream", "live")

	// States change live, without anybody doing anything.
	b.reads("p2-state", "docker")
	b.reads("p1-state", "ready")
	c.change(2, func(v *enrol.SlotView) {
		v.Step, v.State, v.Detail, v.NodeState, v.Availability = "steady", "done", "", "ready", "active"
		v.Health = &enrol.Health{Engine: "20.10.24"}
	})
	b.reads("p2-state", "ready")
	b.reads("p2-docker", "20.10.24")
	b.holds("its card is marked", `document.getElementById("p2").dataset.mark === "ok"`)
	c.change(3, func(v *enrol.SlotView) { v.Operation.Detail = "87 % of 812 MiB" })
	b.holds("the progress", `document.querySelector("#p3-operation progress").value === 87`)
	c.events <- controller.Event{Time: time.Now(), Slot: 2, Kind: controller.EventNode, Detail: "p2: <b>active</b>"}
	b.holds("the event", `document.querySelector("#event-list li").innerText.includes("p2: <b>active</b>")`)
	c.mu.Lock()
	c.view.Alarms = append(c.view.Alarms, enrol.AlarmEntry{Time: time.Now(), Slot: 1, Code: enrol.Revoked, Detail: "a revoked card calls"})
	c.mu.Unlock()
	b.reads("alarms", "a revoked card calls (revoked)")
	b.quiet("after changes")

	// Actions: none without the token.
	b.holds("actions are closed", `[...document.querySelectorAll(".actions")].every((a) => a.hidden && [...a.children].every((b) => b.disabled))`)
	status := evaluate[int](b, `fetch("/actions/p1/off", {method: "POST"}).then((r) => r.status)`, chromedp.EvalAwaitPromise)
	if status != 401 || c.said() != "" {
		t.Errorf("an action without the token: %d, asked %q", status, c.said())
	}
	b.do("a wrong token", chromedp.SendKeys(chromedp.CSS("#token"), strings.Repeat("x", 32)))
	b.click("#unlock button[type=submit]")
	b.reads("unlock-said", "This is not the token")
	b.told() // it tells of answers that are 401
	b.holds("actions stay closed", `document.querySelector(".actions").hidden`)
	b.do("the token", chromedp.SendKeys(chromedp.CSS("#token"), s.token(t)+"\r"))
	b.reads("unlock-said", "unlocked")

	// One that is asked for twice, and one that is left alone after all.
	b.click(`button[data-slot=p1][data-action=off]`)
	b.reads("ask", "Switch off p1?")
	b.shot("ask")
	b.click("#ask-no")
	b.holds("the question is gone", `!document.getElementById("ask").open`)
	if got := c.said(); got != "" {
		t.Errorf("asked %q, though it was left", got)
	}
	b.click(`button[data-slot=p1][data-action=off]`)
	b.click("#ask-yes")
	b.reads("p1-state", "off")
	b.reads("p1-said", "Switch off: done.")
	b.reads("p1-asked", "off: done")
	if got := c.said(); got != "off p1" {
		t.Errorf("asked %q", got)
	}
	// One that needs no question, and one that fails.
	b.click(`button[data-slot=p4][data-action=on]`)
	b.reads("p4-state", "boots: rom")
	b.quiet("after actions")
	b.click(`button[data-slot=p2][data-action=cycle]`)
	b.click("#ask-yes")
	b.reads("p2-said", "the HAT does not answer on I2C")
	b.told() // it tells of answers that are 409

	// A tab keeps the token when it is loaded again, and no longer than it is told to.
	b.do("reload", chromedp.Reload(), chromedp.WaitVisible(chromedp.CSS("#lock")))
	b.holds("actions are open", `!document.querySelector(".actions").hidden`)

	for _, look := range []struct {
		name          string
		width, height int64
		scale         float64
		phone, dark   bool
	}{
		{"wide-light", 1280, 900, 1, false, false}, {"wide-dark", 1280, 900, 1, false, true},
		{"phone-light", 360, 740, 2, true, false}, {"phone-dark", 360, 740, 2, true, true},
		{"narrowest", 320, 568, 2, true, false},
	} {
		b.looks(look.width, look.height, look.scale, look.phone, look.dark)
		b.holds("it fits "+look.name, `document.documentElement.scrollWidth <= innerWidth && [...document.querySelectorAll("body *:not(.hidden)")].every((e) => e.getBoundingClientRect().right <= innerWidth + 1)`)
		b.holds("it is dark", fmt.Sprintf(`(getComputedStyle(document.body).backgroundColor === "rgb(16, 22, 20)") === %v`, look.dark))
		b.shot(look.name)
	}
	b.holds("fingers hit the buttons", `[...document.querySelectorAll(".actions button")].every((e) => e.getBoundingClientRect().height >= 40)`)
	b.click("#lock")
	b.holds("actions are closed again", `document.querySelector(".actions").hidden && sessionStorage.getItem("hatchery-token") === null`)

	// What the page does when the service does not know.
	c.mu.Lock()
	c.broken = fmt.Errorf("the engine is gone")
	c.mu.Unlock()
	b.reads("trouble", "the engine is gone")
	c.mu.Lock()
	c.broken = nil
	c.mu.Unlock()
	b.holds("it is over", `document.getElementById("trouble").hidden`)
	b.quiet("at last")

	// Were there a hole in the page, a text would still be no script.
	evaluate[bool](b, `{ const s = document.createElement("script"); try { s.textContent = "window.owned = 1" } catch {} try { s.append("window.owned = 1") } catch {} document.body.append(s); } true`)
	refused := evaluate[bool](b, `(() => { try { document.body.insertAdjacentHTML("beforeend", "<img src=x onerror='window.owned = 1'>"); return false } catch (e) { return e instanceof TypeError } })()`)
	b.holds("nothing ran", `window.owned === undefined`)
	if !refused {
		t.Error("markup is made of a text")
	}
	if told := strings.Join(b.told(), "\n"); !strings.Contains(told, "TrustedScript") || !strings.Contains(told, "TrustedHTML") {
		t.Errorf("the policy refused nothing: %s", told)
	}
}

// TestBrowserOnTheLAN: over HTTPS, to a browser that was told of the cluster's
// authority, and to one that was not.
func TestBrowserOnTheLAN(t *testing.T) {
	certutil := testtool.Need(t, "certutil")
	c := newCluster()
	s := serve(t, c, nil)
	home := t.TempDir()
	// Where Chromium looks for what the user trusts: nss/doc, and its own
	// docs/linux/cert_management.md.
	database := filepath.Join(home, ".pki", "nssdb")
	if err := os.MkdirAll(database, 0o700); err != nil {
		t.Fatal(err)
	}
	authority := filepath.Join(home, "ca.crt")
	if err := os.WriteFile(authority, s.ca, 0o600); err != nil {
		t.Fatal(err)
	}
	testtool.Run(t, certutil, "-N", "-d", "sql:"+database, "--empty-password")
	testtool.Run(t, certutil, "-A", "-d", "sql:"+database, "-n", "homelab", "-t", "C,,", "-i", authority)
	b := browse(t, home)
	b.do("open", chromedp.Navigate("https://"+s.tls+"/"), chromedp.WaitVisible(chromedp.CSS("#p4")))
	b.holds("it is secure", "isSecureContext")
	b.reads("stream", "live")
	// The answer may take its time; there is nothing to press before.
	evaluate[bool](b, `(window.fetch = ((f) => (...a) => new Promise((r) => setTimeout(r, 500)).then(() => f(...a)))(window.fetch), true)`)
	b.do("the token", chromedp.SendKeys(chromedp.CSS("#token"), s.token(t)+"\r"))
	b.click(`button[data-slot=p4][data-action=on]`)
	b.reads("p4-state", "boots: rom")
	b.quiet("over HTTPS")

	stranger := browse(t, t.TempDir())
	if err := chromedp.Do(stranger.ctx, chromedp.Navigate("https://"+s.tls+"/")); err == nil || !strings.Contains(err.Error(), "ERR_CERT_AUTHORITY_INVALID") {
		t.Errorf("a browser that was not told: %v", err)
	}
}

// TestBrowserInside: on the slots' network it is to look at.
func TestBrowserInside(t *testing.T) {
	c := newCluster()
	s := serve(t, c, nil)
	if s.inner == "" {
		testtool.Missing(t, "an address that is not loopback's")
	}
	host, _, _ := strings.Cut(s.inner, ":")
	b := browse(t, t.TempDir(), chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE "+host))
	b.do("open", chromedp.Navigate("http://"+s.inner+"/"), chromedp.WaitVisible(chromedp.CSS("#look-only")))
	b.reads("stream", "live")
	c.change(1, func(v *enrol.SlotView) { v.NodeState = "down" })
	b.reads("p1-state", "down")
	b.holds("nothing to press", `document.querySelectorAll("button, input, form").length === 0`)
}

// TestContrast computes what WCAG 2.2 asks of text (1.4.3: 4.5 to 1) for both
// palettes.
func TestContrast(t *testing.T) {
	style, err := os.ReadFile("static/page.css")
	if err != nil {
		t.Fatal(err)
	}
	light, dark, ok := strings.Cut(string(style), "@media (prefers-color-scheme: dark)")
	if !ok {
		t.Fatal("there is no dark palette")
	}
	dark, _, _ = strings.Cut(dark, "* {")
	for name, text := range map[string]string{"light": light, "dark": dark} {
		colors := map[string]float64{}
		for _, found := range regexp.MustCompile(`--([a-z]+): #([0-9a-f]{3,6});`).FindAllStringSubmatch(text, -1) {
			colors[found[1]] = luminance(t, found[2])
		}
		if len(colors) != 11 {
			t.Fatalf("%s: %d colours", name, len(colors))
		}
		for _, ink := range []string{"ink", "faint", "ok", "busy", "bad", "off", "link"} {
			for _, paper := range []string{"ground", "paper", "field"} {
				a, b := max(colors[ink], colors[paper]), min(colors[ink], colors[paper])
				if ratio := (a + .05) / (b + .05); ratio < 4.5 {
					t.Errorf("%s: %s on %s has %.2f to 1", name, ink, paper, ratio)
				}
			}
		}
	}
}

// luminance is WCAG's relative luminance of a colour.
func luminance(t *testing.T, hex string) float64 {
	t.Helper()
	if len(hex) == 3 {
		hex = strings.Join([]string{hex[:1], hex[:1], hex[1:2], hex[1:2], hex[2:], hex[2:]}, "")
	}
	n, err := strconv.ParseUint(hex, 16, 32)
	if err != nil {
		t.Fatal(err)
	}
	channel := func(v uint64) float64 {
		c := float64(v&0xff) / 255
		if c <= .04045 {
			return c / 12.92
		}
		return math.Pow((c+.055)/1.055, 2.4)
	}
	return .2126*channel(n>>16) + .7152*channel(n>>8) + .0722*channel(n)
}
