// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package ownreaders

import (
	"fmt"
	"path/filepath"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/keyutil"
	"k8s.io/kubernetes/pkg/serviceaccount"
)

// who asks a server who has a token, and wants it to be user.
func who(w *world, c kubernetes.Interface, user string) error {
	review, err := c.AuthenticationV1().SelfSubjectReviews().Create(w.ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	if got := review.Status.UserInfo.Username; got != user {
		return fmt.Errorf("it is %q, not %q", got, user)
	}
	return nil
}

// boundTokens: a token that is bound to a Pod or a Secret is good as long as that is there.
func boundTokens(w *world) {
	admin := w.admin(0).CoreV1()
	w.must(admin.ServiceAccounts(w.namespace).Create(w.ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "account"}}, metav1.CreateOptions{}))
	p := w.make(w.pod("bound", "n1", func(p *corev1.Pod) { p.Spec.ServiceAccountName = "account" }))
	s, err := admin.Secrets(w.namespace).Create(w.ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "bound"}, Data: map[string][]byte{"large": make([]byte, 100_000)}}, metav1.CreateOptions{})
	w.must(s, err)
	user := "system:serviceaccount:" + w.namespace + ":account"
	for _, ref := range []authenticationv1.BoundObjectReference{
		{Kind: "Pod", APIVersion: "v1", Name: p.Name, UID: p.UID}, {Kind: "Secret", APIVersion: "v1", Name: s.Name, UID: s.UID},
	} {
		request, err := admin.ServiceAccounts(w.namespace).CreateToken(w.ctx, "account", &authenticationv1.TokenRequest{
			Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: &ref},
		}, metav1.CreateOptions{})
		w.must(request, err)
		for i := range w.servers {
			w.eventually(i, "the token of a "+ref.Kind, func(kubernetes.Interface) error { return who(w, w.bearing(i, request.Status.Token), user) })
		}
		if ref.Kind == "Pod" {
			err = admin.Pods(w.namespace).Delete(w.ctx, ref.Name, now)
		} else {
			err = admin.Secrets(w.namespace).Delete(w.ctx, ref.Name, now)
		}
		w.must(nil, err)
		for i := range w.servers {
			w.eventually(i, "the token of a "+ref.Kind+" that is gone to be refused", func(kubernetes.Interface) error {
				return refused(who(w, w.bearing(i, request.Status.Token), user))
			})
		}
	}
}

// legacyTokens: a token that lies in a Secret is good as long as it lies there.
func legacyTokens(w *world) {
	admin := w.admin(0).CoreV1()
	account, err := admin.ServiceAccounts(w.namespace).Create(w.ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "account"}}, metav1.CreateOptions{})
	w.must(account, err)
	// The controller that would make it does not run here.
	key, err := keyutil.PrivateKeyFromFile(filepath.Join(w.servers[0].Dir, "credentials", "service-account.key"))
	w.must(key, err)
	generator, err := serviceaccount.JWTTokenGenerator(serviceaccount.LegacyIssuer, key)
	w.must(generator, err)
	s := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "token", Namespace: w.namespace, Annotations: map[string]string{
			corev1.ServiceAccountNameKey: account.Name, corev1.ServiceAccountUIDKey: string(account.UID),
		}},
		Type: corev1.SecretTypeServiceAccountToken,
	}
	claims, private := serviceaccount.LegacyClaims(*account, *s)
	token, err := generator.GenerateToken(w.ctx, claims, private)
	w.must(token, err)
	s.Data = map[string][]byte{corev1.ServiceAccountTokenKey: []byte(token)}
	s, err = admin.Secrets(w.namespace).Create(w.ctx, s, metav1.CreateOptions{})
	w.must(s, err)
	user := "system:serviceaccount:" + w.namespace + ":account"
	for i := range w.servers {
		w.eventually(i, "the token", func(kubernetes.Interface) error { return who(w, w.bearing(i, token), user) })
	}
	// A patch: the authenticator has labelled the Secret with the day.
	w.must(admin.Secrets(w.namespace).Patch(w.ctx, s.Name, types.MergePatchType, []byte(`{"stringData":{"token":"another"}}`), metav1.PatchOptions{}))
	for i := range w.servers {
		w.eventually(i, "the token that does not lie there any more to be refused", func(kubernetes.Interface) error {
			return refused(who(w, w.bearing(i, token), user))
		})
	}
}

// bootstrapTokens: a Secret of kube-system is a token, with what it says now.
func bootstrapTokens(w *world) {
	secrets := w.admin(0).CoreV1().Secrets(metav1.NamespaceSystem)
	s, err := secrets.Create(w.ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "bootstrap-token-abcdef"}, Type: "bootstrap.kubernetes.io/token",
		StringData: map[string]string{"token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true"},
	}, metav1.CreateOptions{})
	w.must(s, err)
	const user = "system:bootstrap:abcdef"
	expect := func(what, secret string, good bool) {
		w.Helper()
		for i := range w.servers {
			c := w.bearing(i, "abcdef."+secret)
			w.eventually(i, what, func(kubernetes.Interface) error {
				if err := who(w, c, user); good {
					return err
				} else {
					return refused(err)
				}
			})
		}
	}
	expect("the token", "0123456789abcdef", true)
	expect("another token to be refused", "fedcba9876543210", false)
	s.StringData = map[string]string{"token-secret": "fedcba9876543210"}
	s, err = secrets.Update(w.ctx, s, metav1.UpdateOptions{})
	w.must(s, err)
	expect("the changed token", "fedcba9876543210", true)
	expect("the token of before to be refused", "0123456789abcdef", false)
	s.StringData = map[string]string{"expiration": time.Now().Add(-time.Hour).UTC().Format(time.RFC3339)}
	w.must(secrets.Update(w.ctx, s, metav1.UpdateOptions{}))
	expect("the token to have expired", "fedcba9876543210", false)
	w.must(nil, secrets.Delete(w.ctx, s.Name, now))
}
