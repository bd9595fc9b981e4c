// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
)

func TestSlimKeepsWhatAuthenticatorsRead(t *testing.T) {
	for _, c := range []struct {
		kind corev1.SecretType
		want []string
	}{
		{corev1.SecretTypeOpaque, []string{"token"}},
		{corev1.SecretTypeTLS, []string{"token"}},
		{corev1.SecretTypeServiceAccountToken, []string{"ca.crt", "token"}},
		{bootstrapapi.SecretTypeBootstrapToken, []string{"ca.crt", "token"}},
	} {
		secret := &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: "s", Namespace: "n", UID: "u", ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "m"}}},
			Type:       c.kind,
			Data:       map[string][]byte{"token": []byte("t"), "ca.crt": []byte("c")},
		}
		if _, err := slimObject(secret); err != nil {
			t.Fatal(err)
		}
		var keys []string
		for key := range secret.Data {
			keys = append(keys, key)
		}
		slices.Sort(keys)
		if !slices.Equal(keys, c.want) {
			t.Errorf("type %s keeps %v, want %v", c.kind, keys, c.want)
		}
		if secret.ManagedFields != nil || secret.Name != "s" || secret.Namespace != "n" || secret.UID != "u" {
			t.Errorf("type %s: metadata is %+v", c.kind, secret.ObjectMeta)
		}
	}
}

func TestSlimDropsThePayload(t *testing.T) {
	secret := &corev1.Secret{Type: corev1.SecretTypeOpaque, Data: map[string][]byte{"key": []byte("value")}}
	if _, err := slimObject(secret); err != nil {
		t.Fatal(err)
	}
	if secret.Data != nil {
		t.Errorf("an opaque Secret keeps %v", secret.Data)
	}
}
