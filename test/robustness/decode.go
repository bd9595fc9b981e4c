// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package robustness

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/weir-project/weir/test/robustness/history"
)

// format is a form in which an answer is asked for, compressed if it ends with gzipped.
type format string

const (
	inJSON     format = "json"
	inProtobuf format = "protobuf"
	asMetadata format = "metadata" // PartialObjectMetadata in JSON
	asTable    format = "table"    // Table in JSON
)

const gzipped = "+gzip"

var formats = []format{inJSON, inProtobuf, asMetadata, asTable, inJSON + gzipped, inProtobuf, asMetadata + gzipped, inProtobuf + gzipped}

// plain is the form without compression.
func (f format) plain() format { return format(strings.TrimSuffix(string(f), gzipped)) }

func (f format) compressed() bool { return f != f.plain() }

// of is the form, or where the resource does not have that, JSON: a custom resource has no protobuf.
func (f format) of(resource string) format {
	if resource == widgets && f.plain() == inProtobuf {
		return inJSON + f[len(inProtobuf):]
	}
	return f
}

// whole tells whether all of an object comes.
func (f format) whole() bool { return f.plain() == inJSON || f.plain() == inProtobuf }

// asked is what a request is for.
type asked int

const (
	forWatch asked = iota
	forList
	forOne
)

func (f format) accept(what asked) string {
	const meta = ";v=v1;g=meta.k8s.io"
	switch f := f.plain(); {
	case f == inProtobuf && what == forWatch:
		return runtime.ContentTypeProtobuf + ";stream=watch"
	case f == inProtobuf:
		return runtime.ContentTypeProtobuf
	case f == asMetadata && what == forList:
		return runtime.ContentTypeJSON + ";as=PartialObjectMetadataList" + meta
	case f == asMetadata:
		return runtime.ContentTypeJSON + ";as=PartialObjectMetadata" + meta
	case f == asTable:
		return runtime.ContentTypeJSON + ";as=Table" + meta
	}
	return runtime.ContentTypeJSON
}

// metadata is what is read of an object's.
type metadata struct {
	Name            string            `json:"name,omitempty"`
	Namespace       string            `json:"namespace,omitempty"`
	UID             string            `json:"uid,omitempty"`
	ResourceVersion string            `json:"resourceVersion,omitempty"`
	Labels          map[string]string `json:"labels,omitempty"`
	Annotations     map[string]string `json:"annotations,omitempty"`
	Continue        string            `json:"continue,omitempty"` // of a list

	DeletionTimestamp string `json:"deletionTimestamp,omitempty"`
}

// object is what is read of any answer in JSON: of a ConfigMap, a Pod, an Event, a widget, a Table, a Status or a list of them.
type object struct {
	APIVersion string            `json:"apiVersion,omitempty"`
	Kind       string            `json:"kind,omitempty"`
	Metadata   metadata          `json:"metadata"`
	Data       map[string]string `json:"data,omitempty"`   // a ConfigMap's, a widget's
	Spec       *podSpec          `json:"spec,omitempty"`   // a Pod's
	Status     podStatus         `json:"status,omitempty"` // a Pod's
	Reason     string            `json:"reason,omitempty"` // an Event's, a Status's
	Color      string            `json:"color,omitempty"`  // a widget's
	Rows       []row             `json:"rows,omitempty"`
	Items      []object          `json:"items,omitempty"`
	Code       int               `json:"code,omitempty"`
	Message    string            `json:"message,omitempty"`
	Details    details           `json:"details,omitempty"`
}

// row is one of a Table.
type row struct {
	Cells  []any  `json:"cells"`
	Object object `json:"object"`
}

// shown is the row's object under the name that stands in its first cell, so that cells which are another object's show. An
// Event's first cell is no name.
func (r *row) shown(resource string) object {
	o := r.Object
	if len(r.Cells) > 0 && resource != eventsOf {
		o.Metadata.Name = fmt.Sprint(r.Cells[0])
	}
	return o
}

type podSpec struct {
	NodeName string `json:"nodeName,omitempty"`
}

// details are a Status's.
type details struct {
	Name string `json:"name,omitempty"`
	UID  string `json:"uid,omitempty"`
}

// podStatus is empty where the status is a word, as that of a Status is.
type podStatus struct {
	Phase string `json:"phase,omitempty"`
}

// UnmarshalJSON takes a Pod's status, or a word.
func (s *podStatus) UnmarshalJSON(data []byte) error {
	if !bytes.HasPrefix(data, []byte("{")) {
		return nil
	}
	type plain podStatus
	return json.Unmarshal(data, (*plain)(s))
}

func metadataOf(m *metav1.ObjectMeta) metadata {
	return metadata{
		Name: m.Name, Namespace: m.Namespace, UID: string(m.UID), ResourceVersion: m.ResourceVersion,
		Labels: m.Labels, Annotations: m.Annotations,
	}
}

func ofConfigMap(c *corev1.ConfigMap) object {
	return object{Metadata: metadataOf(&c.ObjectMeta), Data: c.Data}
}

func ofPod(p *corev1.Pod) object {
	return object{Metadata: metadataOf(&p.ObjectMeta), Spec: &podSpec{NodeName: p.Spec.NodeName}, Status: podStatus{Phase: string(p.Status.Phase)}}
}

func ofEvent(e *corev1.Event) object {
	return object{Metadata: metadataOf(&e.ObjectMeta), Reason: e.Reason}
}

// fields are those that it can be selected by, beside the node.
func (o *object) fields(resource string) map[string]string {
	switch resource {
	case pods:
		return map[string]string{"status.phase": o.Status.Phase}
	case eventsOf:
		return map[string]string{"reason": o.Reason}
	case widgets:
		return map[string]string{"color": o.Color}
	}
	return nil
}

// digests are the object's. Those that the truth has, and those of every format, come from here.
func (o *object) digests(resource string, f format) history.Digests {
	m := &o.Metadata
	d := history.Digests{Meta: history.Digest([]string{m.Namespace, m.Name, m.UID}, m.Labels, m.Annotations)}
	if !f.whole() {
		return d
	}
	texts := []string{resource}
	if o.Spec != nil {
		texts = append(texts, o.Spec.NodeName)
	}
	d.Body = history.Digest(texts, o.Data, o.fields(resource))
	return d
}

// inVersion returns an error if an object in JSON is not of the version that it was asked for in. Items of a built-in
// resource's list do not say theirs.
func (o *object) inVersion(c history.Scope, f format) error {
	if want := group + "/" + c.Version; c.Resource == widgets && f.plain() == inJSON && o.APIVersion != want {
		return fmt.Errorf("%s/%s has version %q, not %q", o.Metadata.Namespace, o.Metadata.Name, o.APIVersion, want)
	}
	return nil
}

func (o *object) key(resource string) history.Key {
	return history.Key{Resource: resource, Namespace: o.Metadata.Namespace, Name: o.Metadata.Name}
}

func (o *object) revision() (int64, error) {
	rev, err := strconv.ParseInt(o.Metadata.ResourceVersion, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("resource version of %s/%s: %w", o.Metadata.Namespace, o.Metadata.Name, err)
	}
	return rev, nil
}

// magic begins what Kubernetes writes in protobuf.
const magic = "k8s\x00"

// decode takes apart an object or a list, in protobuf or in JSON.
func decode(data []byte) (object, error) {
	if bytes.HasPrefix(data, []byte(magic)) {
		return decodeProtobuf(data)
	}
	var o object
	err := json.Unmarshal(data, &o)
	return o, err
}

// decodeProtobuf takes apart an object or a list in protobuf, as it is sent and as it is in etcd.
func decodeProtobuf(data []byte) (object, error) {
	if len(data) < len(magic) || string(data[:len(magic)]) != magic {
		return object{}, fmt.Errorf("begins with %.8q: this is no protobuf of Kubernetes", data)
	}
	var u runtime.Unknown
	if err := u.Unmarshal(data[len(magic):]); err != nil {
		return object{}, err
	}
	switch u.Kind {
	case "ConfigMap":
		var c corev1.ConfigMap
		err := c.Unmarshal(u.Raw)
		return ofConfigMap(&c), err
	case "Pod":
		var p corev1.Pod
		err := p.Unmarshal(u.Raw)
		return ofPod(&p), err
	case "Event":
		var e corev1.Event
		err := e.Unmarshal(u.Raw)
		return ofEvent(&e), err
	case "EventList":
		var l corev1.EventList
		err := l.Unmarshal(u.Raw)
		o := object{Metadata: metadata{ResourceVersion: l.ResourceVersion, Continue: l.Continue}}
		for i := range l.Items {
			o.Items = append(o.Items, ofEvent(&l.Items[i]))
		}
		return o, err
	case "ConfigMapList":
		var l corev1.ConfigMapList
		err := l.Unmarshal(u.Raw)
		o := object{Metadata: metadata{ResourceVersion: l.ResourceVersion, Continue: l.Continue}}
		for i := range l.Items {
			o.Items = append(o.Items, ofConfigMap(&l.Items[i]))
		}
		return o, err
	case "PodList":
		var l corev1.PodList
		err := l.Unmarshal(u.Raw)
		o := object{Metadata: metadata{ResourceVersion: l.ResourceVersion, Continue: l.Continue}}
		for i := range l.Items {
			o.Items = append(o.Items, ofPod(&l.Items[i]))
		}
		return o, err
	case "Status":
		var s metav1.Status
		err := s.Unmarshal(u.Raw)
		o := object{Kind: "Status", Metadata: metadata{Continue: s.Continue}, Code: int(s.Code), Message: s.Message}
		if s.Details != nil {
			o.Details = details{Name: s.Details.Name, UID: string(s.Details.UID)}
		}
		return o, err
	default:
		return object{}, fmt.Errorf("kind %q is not known here", u.Kind)
	}
}

// stream takes the events of a watch from its body.
type stream struct {
	format format // without compression
	scope  history.Scope
	body   *bufio.Reader
	json   *json.Decoder
	buf    []byte
}

func newStream(f format, c history.Scope, body io.Reader) *stream {
	s := &stream{format: f.plain(), scope: c}
	if s.format == inProtobuf {
		s.body = bufio.NewReaderSize(body, 32<<10)
	} else {
		s.json = json.NewDecoder(body)
	}
	return s
}

// next returns the next event, io.EOF when the stream ended between two, and another error when it broke off or makes no
// sense; of these, errStream is the server's fault.
func (s *stream) next() (history.Event, error) {
	var kind string
	var o object
	if s.format == inProtobuf {
		raw, err := s.frame()
		if err != nil {
			return history.Event{}, err
		}
		var e metav1.WatchEvent
		if err := e.Unmarshal(raw); err != nil {
			return history.Event{}, fmt.Errorf("%w: %w", errStream, err)
		}
		if kind = e.Type; len(e.Object.Raw) > 0 {
			if o, err = decodeProtobuf(e.Object.Raw); err != nil {
				return history.Event{}, fmt.Errorf("%w: %s: %w", errStream, kind, err)
			}
		}
	} else {
		var e struct {
			Type   string `json:"type"`
			Object object `json:"object"`
		}
		if err := s.json.Decode(&e); err != nil {
			var syntax *json.SyntaxError
			if errors.As(err, &syntax) && !errors.Is(err, errStream) {
				err = fmt.Errorf("%w: %w", errStream, err)
			}
			return history.Event{}, err
		}
		kind, o = e.Type, e.Object
	}
	e, err := s.event(history.Kind(kind), &o)
	if err != nil {
		err = fmt.Errorf("%w: %w", errStream, err)
	}
	return e, err
}

// errStream says that what came is no watch event.
var errStream = errors.New("not a stream of watch events")

func (s *stream) frame() ([]byte, error) {
	var prefix [4]byte
	if _, err := io.ReadFull(s.body, prefix[:]); err != nil {
		return nil, err
	}
	size := int(binary.BigEndian.Uint32(prefix[:]))
	if size == 0 || size > 64<<20 {
		return nil, fmt.Errorf("%w: a frame of %d bytes", errStream, size)
	}
	if cap(s.buf) < size {
		s.buf = make([]byte, size)
	}
	s.buf = s.buf[:size]
	if _, err := io.ReadFull(s.body, s.buf); err != nil {
		return nil, io.ErrUnexpectedEOF
	}
	return s.buf, nil
}

func (s *stream) event(kind history.Kind, o *object) (history.Event, error) {
	e := history.Event{Kind: kind}
	switch kind {
	case history.Error:
		e.Code, e.Message = o.Code, o.Message
		return e, nil
	case history.Added, history.Modified, history.Deleted, history.Bookmark:
	default:
		return e, fmt.Errorf("type %q", kind)
	}
	if s.format == asTable {
		if kind == history.Bookmark && len(o.Rows) == 0 {
			var err error
			e.Revision, err = o.revision()
			return e, err
		}
		if len(o.Rows) != 1 {
			return e, fmt.Errorf("%s of a Table with %d rows", kind, len(o.Rows))
		}
		shown := o.Rows[0].shown(s.scope.Resource)
		o = &shown
	}
	var err error
	if e.Revision, err = o.revision(); err != nil {
		return e, err
	}
	if kind == history.Bookmark {
		e.InitialEnd = o.Metadata.Annotations[metav1.InitialEventsAnnotationKey] == "true"
		return e, nil
	}
	e.Key, e.Digests = o.key(s.scope.Resource), o.digests(s.scope.Resource, s.format)
	return e, o.inVersion(s.scope, s.format)
}
