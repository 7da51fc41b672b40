// What keeps the page up to date, and does what is asked of it. It makes no HTML
// of text: the page's policy has browsers refuse that.
"use strict";

const $ = (id) => document.getElementById(id);

// The controller's clock, by this browser's monotonic one.
const clock = { at: Number(document.body.dataset.now), here: performance.now() };
const now = () => clock.at + (performance.now() - clock.here);

function age(stamp) {
	const at = Date.parse(stamp);
	if (Number.isNaN(at)) return "";
	const s = Math.floor((now() - at) / 1000);
	if (s < 0) return "just now";
	if (s < 120) return s + " s ago";
	if (s < 7200) return Math.floor(s / 60) + " min ago";
	if (s < 172800) return Math.floor(s / 3600) + " h ago";
	return Math.floor(s / 86400) + " days ago";
}

// say changes a text only if it is another: screen readers tell of changes.
function say(element, text) {
	if (element && element.textContent !== text) element.textContent = text;
}

function setTime(element, stamp) {
	if (stamp) element.setAttribute("datetime", stamp);
	else element.removeAttribute("datetime");
	say(element, stamp ? age(stamp) : "");
	if (stamp) element.title = new Date(stamp).toLocaleString();
}

function showFact(of, fact) {
	const row = $(of + "-" + fact.id);
	if (!row) return;
	row.dataset.mark = fact.mark;
	row.hidden = !fact.text && !fact.time;
	say(row.querySelector(".text"), fact.text);
	setTime(row.querySelector("time"), fact.time);
	const done = row.querySelector("progress");
	done.hidden = fact.percent === undefined;
	if (!done.hidden) done.value = fact.percent;
}

function showCard(card) {
	const place = $(card.name);
	if (!place) {
		// A slot that was not there when this page was made.
		if (!sessionStorage.getItem("reloaded-for-" + card.name)) {
			sessionStorage.setItem("reloaded-for-" + card.name, "yes");
			location.reload();
		}
		return;
	}
	place.dataset.mark = card.mark;
	const state = $(card.name + "-state");
	state.dataset.mark = card.mark;
	say(state.querySelector(".text"), card.state);
	say(place.querySelector(".host"), card.hostname);
	for (const fact of card.facts) showFact(card.name, fact);
}

function line(entry, text, mark) {
	const item = document.createElement("li");
	if (mark) {
		item.dataset.mark = mark;
		const shape = document.createElement("span");
		shape.className = "mark";
		shape.setAttribute("aria-hidden", "true");
		item.append(shape);
	}
	const when = document.createElement("time");
	setTime(when, entry.time);
	const who = document.createElement("b");
	who.textContent = entry.slot || "";
	const what = document.createElement("span");
	what.textContent = text;
	item.append(when, " ", who, " ", what);
	return item;
}

const eventLine = (e) => line(e, e.detail);
const maxEvents = 60;

function showState(state) {
	clock.at = Date.parse(state.now);
	clock.here = performance.now();
	say($("cluster"), state.cluster);
	const title = state.cluster + " · hatchery";
	if (document.title !== title) document.title = title;
	say($("trouble"), state.trouble);
	$("trouble").hidden = !state.trouble;
	for (const fact of state.facts || []) showFact("cluster", fact);
	for (const card of state.cards || []) showCard(card);
	if (state.alarms) {
		$("alarm-list").replaceChildren(...state.alarms.map((a) => line(a, a.detail + " (" + a.code + ")", "bad")));
		$("alarms").hidden = state.alarms.length === 0;
	}
	if (state.events) $("event-list").replaceChildren(...state.events.map(eventLine).reverse());
}

function showStream(mark, text) {
	const element = $("stream");
	element.dataset.mark = mark;
	say(element.querySelector(".text"), text);
}

function watch() {
	const stream = new EventSource("/stream");
	stream.onopen = () => showStream("ok", "live");
	stream.addEventListener("state", (m) => showState(JSON.parse(m.data)));
	stream.addEventListener("event", (m) => {
		const list = $("event-list");
		list.prepend(eventLine(JSON.parse(m.data)));
		while (list.children.length > maxEvents) list.lastElementChild.remove();
	});
	stream.onerror = () => {
		showStream("busy", "not live: trying again");
		// A browser gives up where it was refused, and not where it was cut off.
		if (stream.readyState === EventSource.CLOSED) setTimeout(watch, 5000);
	};
	addEventListener("pagehide", () => stream.close(), { once: true });
}

setInterval(() => {
	for (const element of document.querySelectorAll("time[datetime]")) say(element, age(element.getAttribute("datetime")));
}, 1000);

// Actions. The token is kept as long as this tab is open.
const kept = "hatchery-token";

async function call(path, token) {
	const answer = await fetch(path, {
		method: "POST", cache: "no-store", credentials: "omit", redirect: "error",
		headers: { Authorization: "Bearer " + token },
	});
	let body = {};
	if (answer.status !== 204) {
		try { body = await answer.json(); } catch { body = { detail: "the answer cannot be read" }; }
	}
	return { ok: answer.ok, status: answer.status, body };
}

function unlocked(yes) {
	for (const button of document.querySelectorAll(".actions button")) button.disabled = !yes;
	for (const group of document.querySelectorAll(".actions")) group.hidden = !yes;
	$("lock").hidden = !yes;
	$("unlock").querySelector("button[type=submit]").hidden = yes;
	$("token").hidden = yes;
	$("unlock").querySelector("label").hidden = yes;
	say($("unlock-said"), yes ? "Actions are unlocked in this tab." : "`hatchery page --token` shows it");
}

async function unlock(token) {
	let answer;
	try {
		answer = await call("/token", token);
	} catch {
		say($("unlock-said"), "The controller cannot be reached.");
		return;
	}
	if (answer.ok) {
		sessionStorage.setItem(kept, token);
		$("token").value = "";
		unlocked(true);
		return;
	}
	sessionStorage.removeItem(kept);
	unlocked(false);
	say($("unlock-said"), answer.status === 401 ? "This is not the token." : answer.body.detail || "It was refused.");
	$("token").select();
}

// confirmed asks, and gives what was answered.
function confirmed(title, text, yes) {
	const dialog = $("ask");
	say($("ask-title"), title);
	say($("ask-text"), text);
	say($("ask-yes"), yes);
	dialog.returnValue = "";
	dialog.showModal();
	return new Promise((resolve) => {
		dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
	});
}

async function act(button) {
	const { slot, action, asks } = button.dataset;
	const label = button.firstChild.textContent;
	if (asks && !(await confirmed(label + " " + slot + "?", asks, label))) return;
	const place = $(slot + "-said");
	say(place, label + ": asked …");
	button.disabled = true;
	try {
		const { ok, status, body } = await call("/actions/" + slot + "/" + action, sessionStorage.getItem(kept) || "");
		if (ok) say(place, label + (body.state === "done" ? ": done." : ": begun."));
		else say(place, label + ": " + (body.detail || "refused"));
		if (status === 401) {
			sessionStorage.removeItem(kept);
			unlocked(false);
			return;
		}
	} catch {
		say(place, label + ": the controller cannot be reached.");
	}
	button.disabled = false;
}

if ($("unlock")) {
	$("unlock").hidden = false;
	$("unlock").addEventListener("submit", (e) => {
		e.preventDefault();
		unlock($("token").value.trim());
	});
	$("lock").addEventListener("click", () => {
		sessionStorage.removeItem(kept);
		unlocked(false);
		$("token").focus();
	});
	$("ask-yes").addEventListener("click", () => $("ask").close("yes"));
	$("ask-no").addEventListener("click", () => $("ask").close("no"));
	$("slots").addEventListener("click", (e) => {
		const button = e.target.closest("button[data-action]");
		if (button) act(button);
	});
	const token = sessionStorage.getItem(kept);
	if (token) unlock(token);
}

watch();
