// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package intact

import "time"

// whole goes over all of an object, of which n is the schema, and sets what o has of it.
func (p *pass) whole(n *node, o *Object) bool {
	var kind, metadata bool
	root := func(key []byte) (mine, ok bool) {
		switch string(key) {
		case "apiVersion": // Judge has looked at it
			_, _, ok := p.text()
			return true, ok
		case "kind":
			text, _, ok := p.text()
			kind = ok && string(text) == o.Kind
			return true, kind
		case "metadata":
			metadata = p.metadata(o)
			return true, metadata
		case "items":
			return true, false // upstream takes it for a list
		default:
			return false, false
		}
	}
	if n == nil {
		n = &node{}
	}
	n.unfold()
	defaults, ok := p.fields(n, p.prunes, root)
	// Those that are implied have none; see plain.
	return ok && kind && metadata && p.at == len(p.data) && (!p.defaults || defaults == n.defaults)
}

// metadata goes over the metadata of an object. Upstream takes them over into an ObjectMeta and back: what that does not have goes, and
// what is empty. A generation that is missing is added.
func (p *pass) metadata(o *Object) bool {
	o.last = true
	generation := false
	_, ok := p.members(func(key []byte, _ bool) bool {
		if o.last && string(key) > "resourceVersion" {
			o.last, o.at = false, p.at-len(`"":`)-len(key)
		}
		switch string(key) {
		case "annotations":
			n, ok := p.texts(true)
			return ok && n > 0
		case "creationTimestamp", "deletionTimestamp":
			return p.time()
		case "deletionGracePeriodSeconds":
			_, ok := p.integer()
			return ok
		case "finalizers":
			n, ok := p.elements(func() bool {
				_, _, ok := p.text()
				return ok
			})
			return ok && n > 0
		case "generateName":
			_, ok := p.plainText()
			return ok
		case "generation":
			text, ok := p.integer()
			generation = ok && string(text) != "0"
			return generation
		case "labels":
			begin := p.at
			n, ok := p.texts(false)
			if ok {
				o.labels = p.data[begin:p.at]
			}
			return ok && n > 0
		case "managedFields":
			n, ok := p.elements(p.managedFields)
			return ok && n > 0
		case "name":
			var ok bool
			o.Name, ok = p.plainText()
			return ok
		case "namespace":
			var ok bool
			o.Namespace, ok = p.plainText()
			return ok
		case "ownerReferences":
			n, ok := p.elements(p.ownerReference)
			return ok && n > 0
		case "resourceVersion":
			_, ok := p.plainText()
			return ok && p.versioned
		case "uid":
			var ok bool
			o.UID, ok = p.plainText()
			return ok
		default:
			return false
		}
	})
	if o.last {
		o.at = p.at - len(`}`)
	}
	return ok && (generation || p.versioned) && len(o.Name) > 0
}

// Metadata returns the metadata of a custom resource in JSON, as it is served, if decoding them into an ObjectMeta gives what decoding the
// object, and asking it for each of them, would. It goes over object no further than to their end.
func Metadata(object []byte) (metadata []byte, ok bool) {
	p := pass{data: object, versioned: true}
	p.members(func(key []byte, _ bool) bool {
		if string(key) != "metadata" {
			return p.value(nil, false)
		}
		begin := p.at
		if p.metadata(&Object{}) {
			metadata = object[begin:p.at]
		}
		return false // there is nothing else to look for
	})
	return metadata, metadata != nil
}

// texts goes over an object of strings, which may have escapes in them or not.
func (p *pass) texts(escapes bool) (n int, ok bool) {
	return p.members(func(_ []byte, key bool) bool {
		_, value, ok := p.text()
		return ok && (escapes || !key && !value)
	})
}

// plainText goes over a string that is not empty and has no escapes.
func (p *pass) plainText() (text []byte, ok bool) {
	text, escaped, ok := p.text()
	return text, ok && !escaped && len(text) > 0
}

// integer goes over a number that is an int64.
func (p *pass) integer() (text []byte, ok bool) {
	begin := p.at
	if !p.number() {
		return nil, false
	}
	text = p.data[begin:p.at]
	for i, c := range text {
		if (c < '0' || c > '9') && (i > 0 || c != '-') {
			return nil, false
		}
	}
	return text, len(text) <= 18 // longer ones may be a float64
}

// time goes over a time as metav1.Time writes it.
func (p *pass) time() bool {
	text, escaped, ok := p.text()
	if !ok || escaped || len(text) != len("2006-01-02T15:04:05Z") {
		return false
	}
	t, err := time.Parse(time.RFC3339, string(text))
	var buf [len("2006-01-02T15:04:05Z")]byte
	return err == nil && !t.IsZero() && string(t.UTC().AppendFormat(buf[:0], time.RFC3339)) == string(text)
}

// ownerReference goes over one of metadata.ownerReferences.
func (p *pass) ownerReference() bool {
	required := 0
	_, ok := p.members(func(key []byte, _ bool) bool {
		switch string(key) {
		case "apiVersion", "kind", "name", "uid":
			required++
			_, _, ok := p.text()
			return ok
		case "blockOwnerDeletion", "controller":
			return p.word("true") || p.word("false")
		default:
			return false
		}
	})
	return ok && required == 4
}

// managedFields goes over one of metadata.managedFields.
func (p *pass) managedFields() bool {
	n, ok := p.members(func(key []byte, _ bool) bool {
		switch string(key) {
		case "apiVersion", "fieldsType", "manager", "operation", "subresource":
			text, _, ok := p.text()
			return ok && len(text) > 0
		case "time":
			return p.time()
		case "fieldsV1":
			return p.fieldSet()
		default:
			return false
		}
	})
	return ok && n > 0
}

// fieldSet goes over a set of fields, which is an object of such sets.
func (p *pass) fieldSet() bool {
	_, ok := p.members(func([]byte, bool) bool { return p.fieldSet() })
	return ok
}
