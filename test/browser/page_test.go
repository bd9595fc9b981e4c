// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package browser

import (
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

var began = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func client(agent, user string, lists, decoded, watchLists, watches, open, other, compressed, bytes, seats int64) object {
	return object{
		"user": user, "userAgent": agent, "lists": lists, "listsStreamed": lists - decoded, "listsDecoded": decoded, "watchLists": watchLists,
		"watches": watches, "watching": open, "otherRequests": other, "compressed": compressed, "bytes": bytes, "seats": seats, "lastSeen": began,
	}
}

func resource(name string, objects, bytes, watches, events, history int64, seconds float64, behind int64) object {
	return object{
		"name": name, "ready": true, "objects": objects, "bytes": bytes, "watches": watches, "revision": 100, "behind": behind,
		"history": object{"events": events, "bytes": history, "seconds": seconds, "from": 1, "to": 100},
	}
}

func reader(resource, namespace, name, user, agent string, events int64, seconds float64, bytes int64) object {
	return object{"resource": resource, "namespace": namespace, "name": name, "user": user, "userAgent": agent, "events": events, "seconds": seconds, "bytes": bytes}
}

// report returns one of a server that has something of everything.
func report() object {
	return object{
		"build": object{"version": "v0.4.0"}, "kubernetes": "v1.37.2", "started": began, "etcdRevision": 1_234_567, "watching": 997,
		"memory": object{
			"purposes": []object{{"name": "frames", "bytes": 225_000_000}, {"name": "history", "bytes": 60_000_000}, {"name": "derived", "bytes": 38_000_000},
				{"name": "compressed", "bytes": 44_000_000}, {"name": "streams", "bytes": 9_000_000}, {"name": "readers", "bytes": 0}, {"name": "a new one", "bytes": 14_000_000}},
			"liveBytes": 400_000_000, "heapBytes": 500_000_000, "totalBytes": 660_000_000, "releasedBytes": 40_000_000, "limitBytes": 1_240_000_000,
		},
		"resources": []object{
			resource("configmaps", 1210, 9_100_000, 44, 220, 1_600_000, 71.04, 0), resource("pods", 30_000, 225_000_000, 412, 3120, 41_000_000, 74.9, 4),
			resource("jobs.batch", 0, 0, 1, 0, 0, 0, 0), resource("leases.coordination.k8s.io", 203, 160_000, 6, 2400, 1_900_000, 2.25, 0),
			{"name": "crontabs.stable.example.com", "ready": false, "error": "conversion webhook failed"},
		},
		"readers": []object{reader("pods", "", "", "jane", "slow/1", 2113, 41.2, 812_000_000), reader("events", "kube-system", "e", "joe", "slower/2", 12, 1.25, 81_000)},
		"clients": []object{
			client("kube-state-metrics/v2", "system:serviceaccount:monitoring:ksm", 9120, 8820, 0, 31, 12, 2, 9120, 91_234_567_890, 88_000),
			client("kubelet/v1.37.2", "system:node:*", 400, 0, 812, 3100, 806, 88_123, 0, 12_000_000_000, 4100),
			client("kubectl/v1.37.1", "kubernetes-admin", 77, 37, 0, 3, 0, 31, 77, 41_000_000, 310),
			{"user": "", "userAgent": "", "others": true, "lists": 77, "listsStreamed": 70, "listsDecoded": 7, "watchLists": 1, "watches": 3, "watching": 0,
				"otherRequests": 900, "compressed": 2, "bytes": 6_000_000, "seats": 90, "lastSeen": began},
		},
	}
}

// TestNumbers: those of the page are the report's, with all digits for whoever points at them.
func TestNumbers(t *testing.T) {
	s := &server{report: report()}
	second := make(chan struct{})
	goOn := sync.OnceFunc(func() { close(second) })
	s.change = func(n int, r object) { // 2 MB per second to kubectl, from the second report on
		if n > 1 {
			<-second
		}
		r["clients"].([]object)[2]["bytes"] = 41_000_000 + 2_000_000*(n-1)
	}
	p := open(t, s, 1280, 900)
	t.Cleanup(goOn) // before the server is waited for
	p.reports(1)
	if got := p.rows("t-clients")[2][10]; got != "–" {
		t.Errorf("of one report a rate is %q", got)
	}
	for id, want := range map[string]string{
		"build": "v0.4.0 · Kubernetes v1.37.2", "host": s.URL,
		"f-memory": "620 MB", "f-memory-note": "50% of the limit of 1.2 GB", "f-objects": "31,413", "f-objects-note": "234 MB; 1 resource not read",
		"f-watches": "997", "f-watches-note": "slowest 41 s behind", "f-lists": "9,674", "f-lists-note": "8,864 decoded", "f-behind": "4",
		"f-behind-note": "etcd at revision 1,234,567",
	} {
		if got := p.text(id); got != want {
			t.Errorf("%s is %q, want %q", id, got, want)
		}
	}
	for table, want := range map[string][][]string{
		"t-readers": {
			{"pods", "all", "slow/1", "jane", "2,113", "41 s", "812 MB"},
			{"events", "kube-system/e", "slower/2", "joe", "12", "1.3 s", "81 kB"},
		},
		"t-resources": {
			{"pods", "30,000", "225 MB", "7.5 kB", "412", "3,120", "41 MB", "75 s", "4"},
			{"configmaps", "1,210", "9.1 MB", "7.5 kB", "44", "220", "1.6 MB", "71 s", "0"},
			{"leases.coordination.k8s.io", "203", "160 kB", "788 B", "6", "2,400", "1.9 MB", "2.3 s", "0"},
			{"crontabs.stable.example.com", "conversion webhook failed"},
		},
	} {
		if got := p.rows(table); !reflect.DeepEqual(got, want) {
			t.Errorf("%s is\n%q, want\n%q", table, got, want)
		}
	}
	if got := eval[string](p, "document.querySelector('#t-clients tbody tr').children[9].title"); got != "91,234,567,890 bytes" {
		t.Errorf("all digits of 91 GB are %q", got)
	}
	legend := eval[[]string](p, "[...document.querySelectorAll('#c-memory .legend li')].map((li) => [...li.children].slice(1).map((c) => c.textContent).join(' '))")
	if want := []string{"limit 1.2 GB", "runtime 120 MB", "other heap 110 MB", "a new one 14 MB", "readers 0 B", "streams 9.0 MB", "compressed 44 MB", "derived 38 MB", "history 60 MB", "frames 225 MB"}; !reflect.DeepEqual(legend, want) {
		t.Errorf("the legend is\n%q, want\n%q", legend, want)
	}
	goOn()
	p.eventually("document.querySelectorAll('#t-clients tbody tr')[2].children[10].textContent === '2.0 MB/s'")
	p.eventually("document.getElementById('f-sent').textContent === '2.0 MB/s'")
	got := p.rows("t-clients")
	if want := []string{"kube-state-metrics/v2", "system:serviceaccount:monitoring:ksm", "9,120", "8,820", "0", "31", "12", "2", "9,120", "91 GB", "0 B/s", "88,000"}; !reflect.DeepEqual(got[0], want) {
		t.Errorf("the first client is\n%q, want\n%q", got[0], want)
	}
	if last := got[len(got)-1]; last[0] != "others" || last[2] != "77" {
		t.Errorf("the others are %q", last)
	}
	// All the area of the charts has something in it: uPlot was there, and has drawn.
	if n := eval[int](p, "[...document.querySelectorAll('canvas')].filter((c) => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some((v) => v > 0)).length"); n != 3 {
		t.Errorf("%d charts are drawn", n)
	}
	p.end()
}

// TestHostile: what clients have called themselves is text, and no more than that.
func TestHostile(t *testing.T) {
	names := []string{
		`<img src=x onerror="document.title='owned'">`, `<script>document.title='owned'</script>`, `"><svg onload=alert(1)>`, `</td></tr></table><b class=owned>`,
		`<iframe srcdoc="<script>parent.document.title='owned'</script>">`, `&lt;b&gt;`, `javascript:alert(1)`, `{{.Server}}`, `__proto__`, `constructor`,
		"\u202ereversed", "zero\u200bwidth", "a\u0000b\nc", strings.Repeat("long", 2000), strings.Repeat("e\u0301\u0301", 300),
	}
	r := report()
	for i, name := range names {
		r["clients"] = append(r["clients"].([]object), client(name, name, 1, 1, 0, 0, 0, 0, 0, int64(1000-i), 1))
		r["readers"] = append(r["readers"].([]object), reader(name, name, name, name, name, 1, 1, 1))
		r["resources"] = append(r["resources"].([]object), resource(name, 1, 1, 1, 1, 1, 1, 0), object{"name": name + "!", "ready": false, "error": name})
		r["memory"].(object)["purposes"] = append(r["memory"].(object)["purposes"].([]object), object{"name": name, "bytes": 1000})
	}
	r["build"], r["kubernetes"], r["etcdError"] = object{"version": names[0]}, names[1], names[2]
	s := &server{report: r}
	p := open(t, s, 400, 800)
	p.reports(2)
	p.do(press("a"))
	var shown []string
	for _, row := range p.rows("t-clients") {
		if row[0] != row[1] {
			continue
		}
		shown = append(shown, row[0])
	}
	if len(shown) != len(names) {
		t.Fatalf("%d of %d clients are there", len(shown), len(names))
	}
	for i, name := range names {
		want := strings.NewReplacer("\u202e", `\u202e`, "\u200b", `\u200b`, "\u0000", `\u0000`, "\n", `\u000a`, "\u0301", `\u0301`).Replace(name)
		if shown[i] != want {
			t.Errorf("%.100q is shown as %.100q", name, shown[i])
		}
	}
	check := func() {
		t.Helper()
		if title := eval[string](p, "document.title"); title != "weir: "+s.URL {
			t.Errorf("the title is %q", title)
		}
		if n := eval[int](p, "document.querySelectorAll('.owned, iframe, main img, svg, script:not([src])').length + document.scripts.length - 2"); n != 0 {
			t.Errorf("%d elements came out of names", n)
		}
		if wide := eval[int](p, "document.documentElement.scrollWidth"); wide > 400 {
			t.Errorf("names make the page %d px wide", wide)
		}
	}
	check()
	s.with(func() {
		s.code, s.body = 403, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"<b class=owned>","code":403,"message":"`+strings.Repeat("<b class=owned>", 50)+`"}`
	})
	p.eventually("!document.getElementById('notice').hidden && document.getElementById('notice-text').textContent.startsWith('<b class=owned>')")
	check()
	p.end() // also: nothing was left to the policy
	if got := eval[string](p, "(() => { try { document.body.innerHTML = '<b>'; return 'set'; } catch { return 'refused'; } })()"); got != "refused" {
		t.Errorf("markup was %s", got)
	}
}

// TestManyStreams: with 10,000 watches open a report is no longer than with a few, and what it may have at most is shown.
func TestManyStreams(t *testing.T) {
	r := report()
	r["watching"] = 10_000
	var clients, resources, readers []object
	for i := range 500 {
		clients = append(clients, client(fmt.Sprintf("agent-%03d", i), "user", 1, 0, 20, 0, 20, 0, 0, int64(1000-i), 1))
	}
	for i := range 1000 {
		resources = append(resources, resource(fmt.Sprintf("things.group-%d.example.com", i), 10, int64(10_000-i), 10, 1, 1, 1, 0))
	}
	for i := range 20 {
		readers = append(readers, reader("pods", "", "", "user", fmt.Sprintf("agent-%03d", i), 10, float64(20-i), 1))
	}
	r["clients"], r["resources"], r["readers"] = clients, resources, readers
	p := open(t, &server{report: r}, 1280, 900)
	p.reports(2)
	if got := p.text("f-watches"); got != "10,000" {
		t.Errorf("%s watches", got)
	}
	if n, m, l := len(p.rows("t-clients")), len(p.rows("t-resources")), len(p.rows("t-readers")); n != 20 || m != 1000 || l != 20 {
		t.Errorf("%d clients, %d resources, %d readers", n, m, l)
	}
	p.do(press("2", "a"))
	if n := len(p.rows("t-clients")); n != 500 {
		t.Errorf("%d of all clients", n)
	}
	p.do(press("/", "AGENT-499"))
	p.eventually("document.querySelectorAll('#t-clients tbody tr').length === 1 && document.querySelectorAll('#t-resources tbody tr').length === 0")
	p.reports(1)
	p.end()
}

// TestKeys goes through all of them.
func TestKeys(t *testing.T) {
	p := open(t, &server{report: report()}, 1280, 900)
	p.reports(1)
	focused := func() string {
		return eval[string](p, "document.activeElement.closest('tr')?.firstChild.textContent ?? document.activeElement.id")
	}
	sorted := func(table string) string {
		return eval[string](p, fmt.Sprintf("(() => { const th = document.querySelector('#%s th[aria-sort]'); return th.textContent + ' ' + th.ariaSort; })()", table))
	}
	for _, step := range []struct {
		keys []string
		want string
	}{
		{[]string{"j"}, "kube-state-metrics/v2"}, {[]string{"j"}, "kubelet/v1.37.2"}, {[]string{kb.ArrowDown}, "kubectl/v1.37.1"}, {[]string{"k"}, "kubelet/v1.37.2"},
		{[]string{kb.ArrowUp, "k", "k"}, "kube-state-metrics/v2"}, {[]string{"3"}, "pods"}, {[]string{"j"}, "configmaps"}, {[]string{"1"}, "pods"}, {[]string{"2"}, "kube-state-metrics/v2"},
	} {
		if p.do(press(step.keys...)); focused() != step.want {
			t.Errorf("after %q the focus is on %q, want %q", step.keys, focused(), step.want)
		}
	}
	p.do(press("j"))
	p.reports(2)
	if focused() != "kubelet/v1.37.2" {
		t.Errorf("new reports take the focus to %q", focused())
	}
	for _, step := range []struct{ key, want, first string }{
		{"s", "Sent/s descending", ""}, {"s", "Seats descending", "kube-state-metrics/v2"}, {"r", "Seats ascending", "kubectl/v1.37.1"}, {"s", "User agent ascending", "kube-state-metrics/v2"},
	} {
		p.do(press(step.key))
		if got := sorted("t-clients"); got != step.want {
			t.Errorf("after %q it is sorted by %q, want %q", step.key, got, step.want)
		}
		if got := p.rows("t-clients"); step.first != "" && got[0][0] != step.first || got[len(got)-1][0] != "others" {
			t.Errorf("by %s: %q", step.want, got)
		}
	}
	p.do(press("/"))
	if focused() != "filter" {
		t.Errorf("/ takes the focus to %q", focused())
	}
	p.do(press("pods"))
	if got := eval[string](p, "document.getElementById('filter').value"); got != "pods" {
		t.Errorf("the filter is %q: keys go elsewhere", got)
	}
	if n := len(p.rows("t-resources")); n != 1 {
		t.Errorf("%d resources", n)
	}
	p.do(press(kb.Escape))
	if n := len(p.rows("t-resources")); n != 4 {
		t.Errorf("%d resources without a filter", n)
	}
	p.do(press("3", "a"))
	if n := len(p.rows("t-resources")); n != 5 {
		t.Errorf("a shows %d resources", n)
	}
	p.do(press("?"))
	if !eval[bool](p, "document.getElementById('help').open") {
		t.Error("? opens nothing")
	}
	p.do(press("s"))
	if got := sorted("t-resources"); got != "Bytes descending" {
		t.Errorf("a key goes through the help: %s", got)
	}
	p.do(press(kb.Escape))
	p.eventually("!document.getElementById('help').open")
	p.do(press("p"))
	if got := eval[string](p, "document.getElementById('state').dataset.state"); got != "paused" {
		t.Errorf("p: %s", got)
	}
	p.do(press("p"))
	p.reports(1)
	p.do(chromedp.Click("#t-resources thead th:nth-child(2) button"))
	if got := sorted("t-resources"); got != "Objects descending" {
		t.Errorf("a click sorts by %s", got)
	}
	unnamed := eval[[]string](p, `[...document.querySelectorAll("button, input, [role], figure, section, dialog")].filter((e) => e.checkVisibility() &&
		!(e.ariaLabel || e.getAttribute("aria-labelledby") || e.textContent.trim() || e.labels?.length)).map((e) => e.outerHTML)`)
	if len(unnamed) > 0 {
		t.Errorf("without a name: %q", unnamed)
	}
	p.end()
}

// contrast returns how much two colours of the style sheet differ, as the Web Content Accessibility Guidelines have it.
const contrast = `((a, b) => {
	const light = (name) => {
		const hex = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
		const part = (i) => { const v = parseInt(hex.slice(i, i + 2), 16) / 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
		return 0.2126 * part(1) + 0.7152 * part(3) + 0.0722 * part(5);
	};
	const [x, y] = [light(a), light(b)];
	return (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05);
})`

// TestLooks: dark and light, a phone and a wall.
func TestLooks(t *testing.T) {
	s := &server{report: report()}
	s.report["clients"] = append([]object{client("kube-controller-manager/v1.37.2 (linux/amd64) kubernetes/3f2a1bc/system:serviceaccount:kube-system:generic-garbage-collector",
		"system:serviceaccount:kube-system:generic-garbage-collector", 1_234_567, 1_234_567, 123_456, 123_456, 12_345, 123_456_789, 123_456, 1_234_567_890_123, 1_234_567)},
		s.report["clients"].([]object)...)
	p := open(t, s, 1280, 900)
	p.reports(1)
	background := func() string { return eval[string](p, "getComputedStyle(document.body).backgroundColor") }
	light := background()
	for _, scheme := range []string{"light", "dark"} {
		p.do(p.scheme(scheme))
		p.eventually(fmt.Sprintf("document.documentElement.dataset.theme === %q", scheme))
		for _, ground := range []string{"--page", "--surface", "--row", "--share"} {
			for _, text := range []string{"--text", "--muted", "--accent", "--warn", "--bad"} {
				if ground == "--share" && text != "--text" && text != "--warn" {
					continue
				}
				if got := eval[float64](p, fmt.Sprintf("%s(%q, %q)", contrast, text, ground)); got < 4.5 {
					t.Errorf("%s: %s on %s has a contrast of %.2f", scheme, text, ground, got)
				}
			}
		}
		for _, width := range []int64{400, 1280, 3840} {
			p.do(chromedp.EmulateViewport(width, map[int64]int64{400: 800, 1280: 900, 3840: 2160}[width]))
			p.reports(1)
			if wide := eval[int64](p, "document.documentElement.scrollWidth"); wide > width {
				t.Errorf("on a screen %d px wide the page is %d", width, wide)
			}
			if wide := eval[float64](p, "Math.max(...[...document.querySelectorAll('.chart, .table, .figure, header, #controls > *, figcaption > *')].map((e) => e.getBoundingClientRect().right))"); wide > float64(width) {
				t.Errorf("on a screen %d px wide something ends at %.0f", width, wide)
			}
			if hidden := eval[[]string](p, "[...document.querySelectorAll('.scroller')].filter((e) => e.scrollWidth > e.clientWidth).map((e) => e.parentElement.id)"); width > 400 && len(hidden) > 0 {
				t.Errorf("on a screen %d px wide not all columns are seen of %q", width, hidden)
			}
			p.picture(fmt.Sprintf("%d-%s", width, scheme))
		}
	}
	if dark := background(); dark == light {
		t.Errorf("dark and light are both %s", dark)
	}
	for _, want := range []string{"dark", "light", "dark"} { // dark, light, and as the system has it
		p.do(press("t"))
		if got := eval[string](p, "document.documentElement.dataset.theme"); got != want {
			t.Errorf("t makes it %s, want %s", got, want)
		}
	}
	p.do(press("t"), p.scheme("light"), press("t"), chromedp.Reload())
	p.reports(1)
	if got := eval[string](p, "document.documentElement.dataset.theme"); got != "light" {
		t.Errorf("what was chosen is forgotten: %s", got)
	}
	p.end()
}

// TestWithoutReport: what is wrong is said, with what to do; what was known stays; and all goes on when there is an answer.
func TestWithoutReport(t *testing.T) {
	s := &server{report: report(), code: 403, body: `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Forbidden","code":403,"message":"forbidden: User \"jane\" cannot get path \"/weir/status\""}`}
	p := open(t, s, 400, 800)
	said := func(name string, words ...string) {
		t.Helper()
		for _, word := range words {
			p.eventually(fmt.Sprintf("!document.getElementById('notice').hidden && document.getElementById('notice').innerText.includes(%q)", word))
		}
		if wide := eval[int64](p, "document.documentElement.scrollWidth"); wide > 400 {
			t.Errorf("%s: the page is %d px wide", name, wide)
		}
		p.picture(name)
	}
	said("forbidden", `User "jane" cannot get path`, "nonResourceURLs", "kubectl create clusterrolebinding", "Since ", "Asking again")
	if eval[bool](p, "document.querySelector('main').checkVisibility()") {
		t.Error("there are numbers, and nobody has told them")
	}
	s.with(func() { s.code, s.body = 404, "" })
	said("stock", "has no /weir/status", "not weir", "apiserver_longrunning_requests")
	s.with(func() { s.code, s.body = 200, "<html>" })
	said("unreadable", "cannot be read", "another release", "<html>")
	s.with(func() { s.code = 0; delete(s.report["memory"].(object), "limitBytes") })
	p.reports(2)
	if eval[bool](p, "document.getElementById('notice').checkVisibility()") {
		t.Error("what was wrong is still said")
	}
	if got := p.text("f-memory-note"); got != "no limit is set" {
		t.Errorf("without a limit: %q", got)
	}
	s.with(func() { s.gone = true })
	said("gone", s.URL+" does not answer", "goes on by itself")
	if got := p.text("f-watches"); got != "997" || !strings.HasPrefix(p.text("state-text"), "as of ") || !eval[bool](p, "document.body.classList.contains('stale')") {
		t.Errorf("%s watches, %q: what was known is gone, or looks as if it were of now", got, p.text("state-text"))
	}
	s.with(func() { s.gone = false; s.report["watching"] = 998 })
	p.eventually("document.getElementById('f-watches').textContent === '998' && document.getElementById('notice').hidden && !document.body.classList.contains('stale')")
	p.end()
}
