// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package ownreaders

import (
	"fmt"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// mounts has a Pod use Secrets and ConfigMaps in all ways in which it can.
func mounts(p *corev1.Pod) {
	p.Spec.Volumes = []corev1.Volume{
		{Name: "s", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "volume"}}},
		{Name: "c", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "volume"}}}},
		{Name: "p", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "claim"}}},
	}
	p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "pull"}}
	p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "E", ValueFrom: &corev1.EnvVarSource{
		SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "env"}, Key: "k"},
	}}}
	p.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "envfrom"}}}}
}

// nodeAuthorizer: a kubelet may read what the Pods on its node use, as long as they are there.
func nodeAuthorizer(w *world) {
	admin := w.admin(0).CoreV1()
	for _, name := range []string{"volume", "pull", "env", "ephemeral", "unused"} {
		w.must(admin.Secrets(w.namespace).Create(w.ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}))
	}
	for _, name := range []string{"volume", "envfrom", "unused"} {
		w.must(admin.ConfigMaps(w.namespace).Create(w.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}))
	}
	secret := func(c kubernetes.Interface, name string) error {
		_, err := c.CoreV1().Secrets(w.namespace).Get(w.ctx, name, metav1.GetOptions{})
		return err
	}
	config := func(c kubernetes.Interface, name string) error {
		_, err := c.CoreV1().ConfigMaps(w.namespace).Get(w.ctx, name, metav1.GetOptions{})
		return err
	}
	made := w.make(w.pod("user", "n1", mounts))
	for i := range w.servers {
		n1, n2 := w.node(i, "n1"), w.node(i, "n2")
		for _, name := range []string{"volume", "pull", "env"} {
			w.eventually(i, "the node's Secret "+name, func(kubernetes.Interface) error { return secret(n1, name) })
		}
		for _, name := range []string{"volume", "envfrom"} {
			w.eventually(i, "the node's ConfigMap "+name, func(kubernetes.Interface) error { return config(n1, name) })
		}
		for _, err := range []error{secret(n1, "unused"), config(n1, "unused"), secret(n2, "volume"), config(n2, "volume"), secret(n1, "ephemeral")} {
			if err := refused(err); err != nil {
				w.Errorf("%s: %v", w.servers[i].Name, err)
			}
		}
	}
	// An ephemeral container is the one thing that makes a Pod use more: the authorizer compares the Pod with what it was.
	made.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{
		Name: "e", Image: "image", TerminationMessagePolicy: corev1.TerminationMessageReadFile,
		EnvFrom: []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "ephemeral"}}}},
	}}}
	w.must(admin.Pods(w.namespace).UpdateEphemeralContainers(w.ctx, made.Name, made, metav1.UpdateOptions{}))
	for i := range w.servers {
		w.eventually(i, "the ephemeral container's Secret", func(kubernetes.Interface) error { return secret(w.node(i, "n1"), "ephemeral") })
	}
	w.must(nil, admin.Pods(w.namespace).Delete(w.ctx, made.Name, now))
	for i := range w.servers {
		w.eventually(i, "the Secret to be refused when the Pod is gone", func(kubernetes.Interface) error { return refused(secret(w.node(i, "n1"), "volume")) })
	}
}

// withToken has a Pod use a token: a kubelet gets one for the audiences alone that are among a Pod's volumes.
func withToken(p *corev1.Pod) {
	p.Spec.ServiceAccountName = "account"
	p.Spec.Volumes = []corev1.Volume{{Name: "t", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
		Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"}}},
	}}}}
}

// nodeRestriction: a kubelet may delete, evict and have tokens for Pods on its node only.
func nodeRestriction(w *world) {
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "account"}}
	w.must(w.admin(0).CoreV1().ServiceAccounts(w.namespace).Create(w.ctx, account, metav1.CreateOptions{}))
	for i := range w.servers {
		mine := w.make(w.pod(fmt.Sprint("mine-", i), "n1", withToken))
		others := w.make(w.pod(fmt.Sprint("others-", i), "n2", withToken))
		n1 := w.node(i, "n1").CoreV1()
		token := func(p *corev1.Pod) error {
			_, err := n1.ServiceAccounts(w.namespace).CreateToken(w.ctx, "account", &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
				BoundObjectRef: &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: p.Name, UID: p.UID},
			}}, metav1.CreateOptions{})
			return err
		}
		evict := func(p *corev1.Pod) error {
			return n1.Pods(w.namespace).EvictV1(w.ctx, &policyv1.Eviction{
				ObjectMeta: metav1.ObjectMeta{Name: p.Name, Namespace: p.Namespace}, DeleteOptions: &metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}},
			})
		}
		w.eventually(i, "a token for a Pod of the node", func(kubernetes.Interface) error { return token(mine) })
		w.eventually(i, "the other node's Pod to be known", func(kubernetes.Interface) error {
			if err := n1.Pods(w.namespace).Delete(w.ctx, others.Name, now); apierrors.IsNotFound(err) {
				return err
			}
			return nil
		})
		wrong := mine.DeepCopy()
		wrong.UID = "another"
		for what, err := range map[string]error{
			"a token for another node's Pod": token(others), "a token for a UID that is not the Pod's": token(wrong),
			"another node's Pod evicted": evict(others), "another node's Pod deleted": n1.Pods(w.namespace).Delete(w.ctx, others.Name, now),
		} {
			if err := refused(err); err != nil {
				w.Errorf("%s: %s: %v", w.servers[i].Name, what, err)
			}
		}
		if err := evict(mine); err != nil {
			w.Errorf("%s: %v", w.servers[i].Name, err)
		}
		if err := n1.Pods(w.namespace).Delete(w.ctx, mine.Name, now); err != nil {
			w.Errorf("%s: %v", w.servers[i].Name, err)
		}
	}
}
