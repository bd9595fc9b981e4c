// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package definitions

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"

	"github.com/weir-project/weir/test/etcd"
	"github.com/weir-project/weir/test/servers"
	"github.com/weir-project/weir/test/webhook"
)

// TestVersions has a definition with two versions of one schema and one of another be served by upstream's server and weir's, which serves the two from
// one store, over one etcd. All answers are held against each other, while objects are written through every version and the definition lives: its columns change, the
// version that is stored, the schema of one; one is dropped, and all is deleted and made again.
func TestVersions(t *testing.T) {
	for name, gates := range map[string]string{
		"in JSON":            "CustomResourceCachesOnDemand=false",
		"on demand, in CBOR": "CustomResourceCachesOnDemand=true,CBORServingAndStorage=true",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testVersions(t, gates, nil)
		})
	}
	t.Run("by a webhook", func(t *testing.T) {
		t.Parallel()
		hook := webhook.Start(t, func(o object, apiVersion string) error {
			if spec, ok := o["spec"].(object); ok {
				spec["any"] = object{"from": o["apiVersion"], "to": apiVersion, "was": spec["any"]}
				if was, ok := spec["any"].(object)["was"].(object); ok && was["to"] != nil {
					spec["any"].(object)["was"] = was["was"]
				}
				spec["text"] = nil
			}
			return nil
		})
		testVersions(t, "CustomResourceCachesOnDemand=false", hook.Conversion())
	})
}

const (
	gadgets       = "gadgets.versions.example.com"
	gadgetsPrefix = "/apis/versions.example.com/"
)

// gadgetVersion is a version of the definition; more are further fields of its spec.
func gadgetVersion(name, storage string, more object, columns ...object) object {
	yes := object{"type": "object", "x-kubernetes-preserve-unknown-fields": true}
	spec := object{
		"n": object{"type": "integer", "default": 3}, "float": object{"type": "number"}, "text": object{"type": "string", "nullable": true}, "color": object{"type": "string"},
		"any": yes, "list": object{"type": "array", "items": properties(object{"a": object{"type": "string", "default": "x"}})}, "either": object{"x-kubernetes-int-or-string": true},
	}
	maps.Copy(spec, more)
	schema := properties(object{"spec": properties(spec), "status": yes, "aaa": yes, "Zed": object{"type": "string"}})
	selectable := []object{{"jsonPath": ".spec.color"}}
	if more != nil {
		selectable = append(selectable, object{"jsonPath": ".spec.n"})
	}
	v := object{"selectableFields": selectable, "subresources": object{"status": object{}}}
	if len(columns) > 0 {
		v["additionalPrinterColumns"] = columns
	}
	return version(name, name == storage, schema, v)
}

func column(name string) object {
	return object{"name": name, "type": "string", "jsonPath": ".spec." + name}
}

// versioned is the pair, with what is asked of it.
type versioned struct {
	pair
	// served are the versions that are, cbor says that answers may be in CBOR, and few that what YAML and protobuf are made of has been compared.
	served    []string
	cbor, few bool
	// written counts the objects.
	written int
}

// testVersions does so. A conversion, if given, is by a webhook.
func testVersions(t *testing.T, gates string, conversion object) {
	store := etcd.Run(t)
	v := &versioned{cbor: strings.Contains(gates, "CBOR"), few: conversion != nil}
	var stock []string
	if v.cbor {
		stock = append(stock, "--feature-gates=CBORServingAndStorage=true")
	}
	v.stock = servers.Start(t, servers.Stock, store.Endpoints()[0], stock...)
	v.weir = servers.Start(t, servers.Weir, store.Endpoints()[0], "--feature-gates="+gates)
	v.stock.Wait()
	v.weir.Wait()
	// On demand each version is opened when it is asked for, which may be when what lingered has ended.
	onDemand := strings.Contains(gates+os.Getenv("WEIR_TEST_FEATURE_GATES"), "CachesOnDemand=true")

	define := func(versions ...object) {
		t.Helper()
		v.served = nil
		for _, of := range versions {
			v.served = append(v.served, of["name"].(string))
		}
		crd := define("versions.example.com", "Gadget", "Namespaced", versions...)
		if conversion != nil {
			crd["spec"].(object)["conversion"] = conversion
		}
		status, answer := v.weir.Do(http.MethodPost, crds, crd)
		if status == http.StatusConflict {
			v.weir.Must(http.MethodPatch, crds+"/"+gadgets, object{"spec": object{"versions": versions}})
		} else if status/100 != 2 {
			t.Fatalf("%d %s", status, answer)
		}
	}
	other := object{"more": object{"type": "string", "default": "m"}, "float": object{"type": "string"}}
	define(gadgetVersion("v1", "v1", nil, column("text")), gadgetVersion("v1beta1", "v1", nil, column("n"), column("color")), gadgetVersion("v2", "v1", other))
	v.eventuallyServed(t)
	v.write(t, "v1", "v1beta1", "v2", "v1", "v1beta1")
	t.Run("created", v.sameEverywhere)
	if reads := v.reads(t); !onDemand && conversion == nil && reads != 2 {
		t.Errorf("two versions of one schema and one of another are read %v times, want twice", reads)
	}
	t.Run("watched", v.sameWatches)
	t.Run("applied", func(t *testing.T) {
		for i, version := range []string{"v1", "v1beta1", "v2", "v1beta1"} {
			body := fmt.Sprintf(`{"apiVersion":"versions.example.com/%s","kind":"Gadget","metadata":{"name":"applied"},"spec":{"n":%d,"color":"c%d"}}`, version, i%2, i%2)
			a := v.answer(t, v.weir, servers.Request{Method: http.MethodPatch, Path: v.path(version) + "/applied?force=true&fieldManager=m" + version,
				Header: http.Header{"Content-Type": {"application/apply-patch+yaml"}}, Body: []byte(body)})
			if a.Status/100 != 2 {
				t.Fatalf("%d %s", a.Status, a.Body)
			}
		}
		v.sameEverywhere(t)
	})
	before := v.reads(t)
	define(gadgetVersion("v1", "v1", nil, column("color")), gadgetVersion("v1beta1", "v1", nil, column("text")), gadgetVersion("v2", "v1", other, column("more")))
	t.Run("columns changed", v.sameEverywhere)
	v.write(t, "v1", "v1beta1")
	t.Run("columns changed, written", v.sameEverywhere)
	if reads := v.reads(t); !onDemand && conversion == nil && reads != before {
		t.Errorf("after the columns have changed the resource has been read %v times more", reads-before)
	}
	define(gadgetVersion("v1", "v1beta1", nil), gadgetVersion("v1beta1", "v1beta1", nil), gadgetVersion("v2", "v1beta1", other))
	t.Run("stored in another version", v.sameEverywhere)
	v.write(t, "v1", "v1beta1", "v2")
	t.Run("stored in two versions", v.sameEverywhere)
	t.Run("stored in two versions, watched", v.sameWatches)
	define(gadgetVersion("v1", "v1beta1", nil), gadgetVersion("v1beta1", "v1beta1", object{"late": object{"type": "string", "default": "l"}}), gadgetVersion("v2", "v1beta1", other))
	t.Run("of another schema", v.sameEverywhere)
	v.write(t, "v1", "v1beta1", "v2")
	t.Run("of another schema, written", v.sameEverywhere)
	define(gadgetVersion("v1", "v2", nil), gadgetVersion("v1beta1", "v2", nil), gadgetVersion("v2", "v2", other), gadgetVersion("v3", "v2", nil))
	t.Run("a version more", v.sameEverywhere)
	v.write(t, "v3", "v1", "v2")
	t.Run("a version more, watched", v.sameWatches)
	// All are stored in v2 before another version is dropped.
	for _, item := range v.weir.Must(http.MethodGet, v.path("v2"), nil)["items"].([]any) {
		v.weir.Must(http.MethodPut, v.path("v2")+"/"+name(item.(object)), item)
	}
	v.weir.Must(http.MethodPatch, crds+"/"+gadgets+"/status", object{"status": object{"storedVersions": []string{"v2"}}})
	define(gadgetVersion("v1", "v2", nil), gadgetVersion("v2", "v2", other), gadgetVersion("v3", "v2", nil))
	t.Run("one dropped", v.sameEverywhere)
	if status, _ := v.weir.Do(http.MethodGet, v.path("v1beta1"), nil); status != http.StatusNotFound {
		t.Errorf("the version that was dropped is answered with %d", status)
	}
	v.weir.Must(http.MethodDelete, crds+"/"+gadgets, nil)
	for _, s := range []*servers.Server{v.stock, v.weir} {
		servers.Eventually(t, "the definition to be gone", func() bool {
			status, _ := s.Do(http.MethodGet, v.path("v1"), nil)
			return status == http.StatusNotFound
		})
	}
	define(gadgetVersion("v1", "v1", nil), gadgetVersion("v1beta1", "v1", nil))
	v.eventuallyServed(t)
	t.Run("made again, empty", v.sameEverywhere)
	v.write(t, "v1beta1", "v1")
	t.Run("made again", v.sameEverywhere)
	t.Run("made again, watched", v.sameWatches)
}

func (v *versioned) path(version string) string {
	return gadgetsPrefix + version + "/namespaces/default/gadgets"
}

func (v *versioned) eventuallyServed(t *testing.T) {
	t.Helper()
	for _, s := range []*servers.Server{v.stock, v.weir} {
		for _, version := range v.served {
			servers.Eventually(t, version+" to be served by "+s.Name, func() bool {
				status, _ := s.Do(http.MethodGet, v.path(version), nil)
				return status == http.StatusOK
			})
		}
	}
}

// gadget is one with something odd in it.
func (v *versioned) gadget(version string) string {
	v.written++
	spec := []string{
		`"n":9007199254740993,"any":{"big":18446744073709551615,"f":1.0,"e":1e300,"none":null,"empty":{},"list":[]}`,
		`"text":null,"list":[{},{"a":"<>&\u2028"}],"either":"50%"`,
		`"text":"ü 漢字 \u0000 😀","either":5,"any":{"apiVersion":"versions.example.com/v1","kind":"Gadget"}`,
		`"pruned":1,"color":"red"`,
	}[v.written%4]
	return fmt.Sprintf(`{"Zed":"versions.example.com/v1","aaa":{"apiVersion":"versions.example.com/%s","x":1.5},"apiVersion":"versions.example.com/%s","kind":"Gadget",
		"metadata":{"name":"g%d","labels":{"odd":"%d"},"annotations":{"a":"%s"}},"spec":{"color":"c%d",%s}}`,
		version, version, v.written, v.written%2, strings.Repeat("x", v.written%3*20_000), v.written%3, spec)
}

// write creates an object through each version, by turns at both servers, changes it through another and deletes one.
func (v *versioned) write(t *testing.T, versions ...string) {
	t.Helper()
	for i, version := range versions {
		s := []*servers.Server{v.weir, v.weir, v.stock}[i%3]
		body := v.gadget(version)
		at := fmt.Sprintf("%s/g%d", v.path(version), v.written)
		a := v.answer(t, s, servers.Request{Method: http.MethodPost, Path: v.path(version) + "?fieldManager=creator", Body: []byte(body), Header: http.Header{"Content-Type": {"application/json"}}})
		if a.Status != http.StatusCreated {
			t.Fatalf("%s: %s: %d %s", s.Name, at, a.Status, a.Body)
		}
		through := fmt.Sprintf("%s/g%d", v.path(versions[(i+1)%len(versions)]), v.written)
		v.weir.Must(http.MethodPatch, through+"?fieldManager=changer", object{"spec": object{"n": v.written}})
		v.weir.Must(http.MethodPatch, through+"/status?fieldManager=stater", object{"status": object{"done": through}})
		if i%3 == 2 {
			v.weir.Must(http.MethodDelete, through, nil)
		}
	}
}

const (
	asTable   = "application/json;as=Table;v=v1;g=meta.k8s.io"
	asPartial = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
)

func (v *versioned) forms() []string {
	forms := []string{"application/json", asTable, asPartial, "application/yaml", "application/yaml;as=Table;v=v1;g=meta.k8s.io", "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"}
	if v.few {
		forms = forms[:3]
	}
	if v.cbor {
		forms = append(forms, "application/cbor", "application/cbor;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io")
	}
	return forms
}

// sameEverywhere waits until both servers answer alike whatever is asked in every version.
func (v *versioned) sameEverywhere(t *testing.T) {
	var asked []servers.Request
	for _, version := range v.served {
		all, one := v.path(version), gadgetsPrefix+version+"/gadgets"
		for i, form := range v.forms() {
			paths := []string{all, one + "?resourceVersion=0", all + "?labelSelector=odd%3D1", one + "?fieldSelector=spec.color%3Dred", all + "?limit=2", all + "?fieldSelector=metadata.name%3Dg3"}
			if i > 1 {
				paths = paths[:1] // what is selected has been seen
			}
			for _, path := range paths {
				asked = append(asked, get(path, form))
			}
			r := get(all, form)
			r.Header.Set("Accept-Encoding", "gzip")
			asked = append(asked, r)
		}
		for i := 1; i <= v.written; i += 2 {
			asked = append(asked, get(fmt.Sprintf("%s/g%d", all, i), "application/json"), get(fmt.Sprintf("%s/g%d?resourceVersion=0", all, i), "application/json"))
		}
		asked = append(asked, get(all+"?pretty=true", "application/json"), get(all, asTable+",application/json"), get(one+"?includeObject=Object", asTable))
	}
	diff := ""
	defer func() {
		if diff != "" {
			t.Log(diff)
		}
	}()
	for _, r := range asked {
		servers.Eventually(t, "an equal answer", func() bool {
			diff = v.compareGadgets(t, r)
			return diff == ""
		})
		diff = ""
	}
}

var (
	// ages are the cells that say how old something is, and revisions those of lists, which are of the whole etcd.
	ages      = regexp.MustCompile(`(?m)"(?:(?:\d+[smhdy])+|<invalid>)"|^( *- )(?:(?:\d+[smhdy])+|<invalid>)$`)
	revisions = regexp.MustCompile(`("kind":"[A-Za-z]+List","metadata":\{[^{}]*?)"resourceVersion":"\d+"|("metadata":\{)"resourceVersion":"\d+"|(?m)(^  resourceVersion: )"\d+"$|("metadata": \{\s*)"resourceVersion": "\d+"`)
	// columns are those of a Table, which upstream repeats in some events of a watch.
	columns = regexp.MustCompile(`"columnDefinitions":(?:null|\[.*?\]),`)
	tokens  = regexp.MustCompile(`eyJ2Ijoi[\w-]+`)
)

// compareGadgets is compare for what may be of different moments.
func (v *versioned) compareGadgets(t *testing.T, r servers.Request) string {
	t.Helper()
	stock, weir := v.answer(t, v.stock, r), v.answer(t, v.weir, r)
	what := fmt.Sprintf("%s %v", r.Path, r.Header)
	kind := stock.Header.Get("Content-Type")
	for _, a := range []*servers.Response{&stock, &weir} {
		a.Header.Del("Content-Length")
		if a.Header.Get("Content-Encoding") == "gzip" {
			a.Body = gunzip(t, a.Body)
		}
		if !strings.Contains(kind, "cbor") && !strings.Contains(kind, "protobuf") {
			a.Body = tokens.ReplaceAll(revisions.ReplaceAll(ages.ReplaceAll(a.Body, []byte("${1}AGE")), []byte("${1}${2}${3}${4}REV")), []byte("TOKEN"))
		}
	}
	switch {
	case stock.Status != weir.Status:
		return fmt.Sprintf("%s: status %d, stock's %d", what, weir.Status, stock.Status)
	case !maps.EqualFunc(stock.Header, weir.Header, slices.Equal):
		return fmt.Sprintf("%s: headers\n%v, stock's\n%v", what, weir.Header, stock.Header)
	case strings.Contains(kind, "cbor"):
		if a, b := fromCBOR(t, stock.Body), fromCBOR(t, weir.Body); !reflect.DeepEqual(a, b) {
			return fmt.Sprintf("%s:\n%.3000v, stock's\n%.3000v", what, b, a)
		}
	case !bytes.Equal(stock.Body, weir.Body):
		at := 0
		for at < min(len(stock.Body), len(weir.Body)) && stock.Body[at] == weir.Body[at] {
			at++
		}
		return fmt.Sprintf("%s: %d bytes, stock's %d; from %d on\n%.300q, stock's\n%.300q", what,
			len(weir.Body), len(stock.Body), at, weir.Body[max(0, at-100):], stock.Body[max(0, at-100):])
	}
	return ""
}

func fromCBOR(t *testing.T, data []byte) any {
	t.Helper()
	var of any
	if err := direct.Unmarshal(data, &of); err != nil {
		t.Fatalf("%v: %.100q", err, data)
	}
	if list, ok := of.(map[string]any); ok {
		if meta, ok := list["metadata"].(map[string]any); ok && list["items"] != nil {
			delete(meta, "resourceVersion")
			delete(meta, "continue")
		}
	}
	return of
}

// members reads the gzip members of a stream, of which upstream's server sends several.
type members struct {
	in io.Reader
	z  *gzip.Reader
}

func (m *members) Read(p []byte) (n int, err error) {
	if m.z == nil {
		if m.z, err = gzip.NewReader(m.in); err != nil {
			return 0, err
		}
	}
	return m.z.Read(p)
}

// reads returns how often weir has read the resource from etcd.
func (v *versioned) reads(t *testing.T) int {
	t.Helper()
	_, metrics := v.weir.Do(http.MethodGet, "/metrics", nil)
	found := regexp.MustCompile(`(?m)^apiserver_watch_cache_initializations_total\{group="versions.example.com",resource="gadgets"\} (\d+)$`).FindSubmatch(metrics)
	if found == nil {
		return 0
	}
	n, err := strconv.Atoi(string(found[1]))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// sameWatches has both servers be watched in every version and form, from a revision on and with initial events, while objects are written.
func (v *versioned) sameWatches(t *testing.T) {
	type stream struct {
		what   string
		cbor   bool
		server *servers.Server
		next   func() ([]byte, error)
	}
	ctx, cancel := context.WithTimeout(t.Context(), servers.Patience)
	defer cancel()
	from := servers.ResourceVersion(v.weir.Must(http.MethodGet, v.path(v.served[0]), nil))
	forms := []string{"application/json", asTable, "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io", "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"}
	if v.cbor {
		forms = append(forms, "application/cbor")
	}
	var pairs [][2]stream
	for _, version := range v.served {
		for _, form := range forms {
			for _, query := range []string{
				"?watch=1&resourceVersion=" + from, "?watch=1&resourceVersion=" + from + "&labelSelector=odd%3D1", "?watch=1&fieldSelector=spec.color%3Dred&resourceVersion=" + from,
				"?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true", "gzip",
			} {
				r := get(v.path(version)+query, form)
				if query == "gzip" {
					r = get(v.path(version)+"?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true", form)
					r.Header.Set("Accept-Encoding", "gzip")
				}
				var both [2]stream
				for i, s := range []*servers.Server{v.stock, v.weir} {
					resp, err := s.Open(ctx, r)
					if err != nil {
						t.Fatal(err)
					}
					defer func() { _ = resp.Body.Close() }() // it is cut off
					kind := resp.Header.Get("Content-Type")
					var body io.Reader = resp.Body
					if resp.Header.Get("Content-Encoding") == "gzip" {
						if s == v.stock {
							body = &members{in: resp.Body}
						} else {
							body = servers.NewMember(resp.Body)
						}
					}
					both[i] = stream{fmt.Sprintf("%s: %s %v", s.Name, r.Path, r.Header), strings.Contains(kind, "cbor"), s, servers.Events(kind, body)}
				}
				pairs = append(pairs, both)
			}
		}
	}
	// What ends the watches is told by all of them.
	v.write(t, v.served...)
	v.weir.Must(http.MethodPost, v.path(v.served[0]), object{"apiVersion": "versions.example.com/" + v.served[0], "kind": "Gadget",
		"metadata": object{"name": fmt.Sprintf("last%d", v.written), "labels": object{"odd": "1"}}, "spec": object{"color": "red"}})
	last := fmt.Appendf(nil, "last%d", v.written)
	for _, both := range pairs {
		var told [2][]string
		for i, s := range both {
			for {
				event, err := s.next()
				if err != nil {
					t.Fatalf("%s: %v after %d events", s.what, err, len(told[i]))
				}
				end := bytes.Contains(event, last)
				if s.cbor {
					data, err := json.Marshal(fromCBOR(t, event))
					if err != nil {
						t.Fatal(err)
					}
					event = data
				}
				if !bytes.Contains(event, []byte("BOOKMARK")) {
					told[i] = append(told[i], string(columns.ReplaceAll(ages.ReplaceAll(event, []byte("${1}AGE")), nil)))
				}
				if end {
					break
				}
			}
		}
		if !slices.Equal(told[0], told[1]) {
			for i := range min(len(told[0]), len(told[1])) {
				if told[0][i] != told[1][i] {
					t.Errorf("%s: event %d is\n%.500q, stock's\n%.500q", both[1].what, i, told[1][i], told[0][i])
					break
				}
			}
			t.Errorf("%s: %d events, stock's %d", both[1].what, len(told[1]), len(told[0]))
		}
	}
}
