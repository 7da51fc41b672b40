package page_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/accessibility"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"hatchery/internal/enrol"
)

// shapes gives, of each mark that is seen, what its shape is made of, without any
// colour, and complains of what tells a state by no word, or is not seen.
const shapes = `(() => {
	const all = {}, complaints = [];
	for (const e of document.querySelectorAll("[data-mark]")) {
		const mark = e.querySelector(":scope > .mark, :scope > dd > .mark");
		if (!e.dataset.mark || !mark || !e.checkVisibility()) continue;
		const words = [...e.querySelectorAll(".text, time, li > span:not(.mark)")].map((t) => t.innerText).join("").trim();
		if (!words && !e.classList.contains("card")) complaints.push((e.id || e.tagName) + " says nothing");
		const box = mark.getBoundingClientRect(), style = getComputedStyle(mark);
		if (box.width < 6 || box.height < 6) complaints.push((e.id || e.tagName) + " has no shape");
		const clear = (c) => c === "transparent" || c.endsWith(", 0)");
		const shape = [clear(style.backgroundColor), style.backgroundImage !== "none", style.borderRadius, style.clipPath, style.borderTopWidth !== "0px"].join("|");
		(all[e.dataset.mark] ??= new Set()).add(shape);
	}
	for (const [mark, of] of Object.entries(all)) if (of.size > 1) complaints.push(mark + " has shapes of " + [...of].join(" and "));
	const seen = Object.values(all).map((s) => [...s][0]);
	if (new Set(seen).size !== seen.length) complaints.push("two marks have one shape: " + seen.join(" and "));
	for (const mark of ["ok", "busy", "bad", "off"]) if (!all[mark]) complaints.push("nothing is " + mark);
	return complaints;
})()`

// TestReadableWithoutColour: to who sees no colours, has their own, or wants more
// contrast, every state is a word and a shape that no other state has; on a screen of
// 360 pixels nothing is beside it.
func TestReadableWithoutColour(t *testing.T) {
	c := newCluster()
	c.change(4, func(v *enrol.SlotView) { v.Power = "off" })
	c.change(3, func(v *enrol.SlotView) { v.NodeState = "down" })
	s := serve(t, c, nil)
	b := browse(t, t.TempDir())
	b.looks(1280, 900, 1, false, false)
	b.do("open", chromedp.Navigate("http://"+s.plain+"/"), chromedp.WaitVisible(chromedp.CSS("#p4")))
	b.reads("stream", "live")
	for _, look := range []struct {
		name          string
		features      []*emulation.MediaFeature
		deficiency    emulation.SetEmulatedVisionDeficiencyType
		width, height int64
	}{
		{"forced-colors-light", []*emulation.MediaFeature{{Name: "forced-colors", Value: "active"}, {Name: "prefers-color-scheme", Value: "light"}}, "none", 1280, 900},
		{"forced-colors-dark", []*emulation.MediaFeature{{Name: "forced-colors", Value: "active"}, {Name: "prefers-color-scheme", Value: "dark"}}, "none", 1280, 900},
		{"more-contrast", []*emulation.MediaFeature{{Name: "prefers-contrast", Value: "more"}}, "none", 1280, 900},
		{"greyscale", nil, "achromatopsia", 1280, 900},
		{"greyscale-phone-dark", []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: "dark"}}, "achromatopsia", 360, 740},
		{"no-red-and-green-phone", nil, "deuteranopia", 360, 740},
	} {
		b.do("the window", chromedp.EmulateViewport(look.width, look.height))
		if _, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: look.features}); err != nil {
			t.Fatal(err)
		}
		if _, err := chromedp.Call(b.ctx, emulation.SetEmulatedVisionDeficiency, emulation.SetEmulatedVisionDeficiencyParams{Type: look.deficiency}); err != nil {
			t.Fatal(err)
		}
		for _, f := range look.features {
			b.holds(look.name, fmt.Sprintf("matchMedia(%q).matches", "("+f.Name+": "+f.Value+")"))
		}
		for _, complaint := range evaluate[[]string](b, shapes) {
			t.Errorf("%s: %s", look.name, complaint)
		}
		b.holds("it fits "+look.name, `document.documentElement.scrollWidth <= innerWidth`)
		b.shot(look.name)
	}
	// The judge sees what is told by a colour alone, and a state without a word.
	evaluate[bool](b, `(() => { for (const m of document.querySelectorAll('[data-mark="off"] .mark, [data-mark="ok"] .mark')) m.style.cssText = "border-radius: 0; border: 0; background: red"; document.querySelector("#p2-state .text").textContent = ""; return true })()`)
	told := strings.Join(evaluate[[]string](b, shapes), "; ")
	if !strings.Contains(told, "two marks have one shape") || !strings.Contains(told, "p2-state says nothing") {
		t.Errorf("of a page that tells by colours alone it complains %q", told)
	}
}

// TestAccessible: what can be pressed or filled in has a name of its own, and what
// changes by itself is told.
func TestAccessible(t *testing.T) {
	c := newCluster()
	s := serve(t, c, nil)
	b := browse(t, t.TempDir())
	b.looks(1280, 900, 1, false, false)
	b.do("open", chromedp.Navigate("http://"+s.plain+"/"), chromedp.WaitVisible(chromedp.CSS("#p4")))
	b.reads("stream", "live")
	b.do("the token", chromedp.SendKeys(chromedp.CSS("#token"), s.token(t)+"\r"))
	b.reads("unlock-said", "unlocked")
	names := func() map[string][]string {
		t.Helper()
		tree, err := chromedp.Call(b.ctx, accessibility.GetFullAXTree, accessibility.GetFullAXTreeParams{})
		if err != nil {
			t.Fatal(err)
		}
		names := map[string][]string{}
		for _, n := range tree.Nodes {
			if n.Ignored || n.Role == nil {
				continue
			}
			role, name := strings.Trim(string(n.Role.Value), `"`), ""
			if n.Name != nil {
				name = strings.Trim(string(n.Name.Value), `"`)
			}
			names[role] = append(names[role], name)
		}
		return names
	}
	all := names()
	for _, role := range []string{"button", "textbox", "link", "article", "heading", "region"} {
		seen := map[string]bool{}
		for _, name := range all[role] {
			if strings.TrimSpace(name) == "" || seen[name] {
				t.Errorf("the name of a %s is %q, which is none of its own", role, name)
			}
			seen[name] = true
		}
	}
	// Four slots with four actions, and the lock; a heading for each slot and part.
	if len(all["button"]) < 17 || len(all["article"]) != 4 || len(all["heading"]) < 7 || len(all["status"]) < 2 || len(all["textbox"])+len(all["heading"]) == 0 {
		t.Errorf("the tree has %d buttons, %d cards, %d headings, %d that are told: %v", len(all["button"]), len(all["article"]), len(all["heading"]), len(all["status"]), all)
	}
	for _, want := range []string{"Switch off p1", "Rebuild p3"} {
		found := false
		for _, name := range all["button"] {
			found = found || strings.HasPrefix(name, want)
		}
		if !found {
			t.Errorf("no button is named %q: %q", want, all["button"])
		}
	}
	// The question is a dialog with a name.
	b.click(`button[data-slot=p1][data-action=off]`)
	b.reads("ask", "Switch off p1?")
	if asked := names()["dialog"]; len(asked) != 1 || !strings.Contains(asked[0], "Switch off p1") {
		t.Errorf("the dialog's names are %q", asked)
	}
	b.click("#ask-no")
	// A button without a name is found.
	evaluate[bool](b, `document.querySelector("button[data-slot=p1]").replaceChildren(), true`)
	for _, name := range names()["button"] {
		if name == "" {
			return
		}
	}
	t.Error("a button without a name is not found")
}
