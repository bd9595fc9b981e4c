// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package ownreaders

import (
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"sync"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// warned collects the warnings of answers.
type warned struct {
	mu  sync.Mutex
	all []string
}

// HandleWarningHeader implements rest.WarningHandler.
func (h *warned) HandleWarningHeader(_ int, _ string, text string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all = append(h.all, text)
}

// podSecurity: who relabels a namespace is told which Pods in it violate what, which is found in all parts of them.
func podSecurity(w *world) {
	w.make(w.pod("fine", "n1", func(p *corev1.Pod) {
		yes, no, user := true, false, int64(1000)
		p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsNonRoot: &yes, RunAsUser: &user, SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}}
		p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{AllowPrivilegeEscalation: &no, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}}
	}))
	w.make(w.pod("plain", "n1"))
	w.make(w.pod("privileged", "n2", func(p *corev1.Pod) {
		yes := true
		p.Spec.HostNetwork = true
		p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: &yes}
	}))
	w.make(w.pod("host-path", "", func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{Name: "h", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/"}}}}
	}))
	w.make(w.pod("annotated", "n1", func(p *corev1.Pod) {
		p.Annotations = map[string]string{"container.apparmor.security.beta.kubernetes.io/c": "unconfined"}
	}))
	for _, level := range []string{"restricted", "baseline"} {
		patch := []byte(fmt.Sprintf(`{"metadata":{"labels":{"pod-security.kubernetes.io/enforce":%q}}}`, level))
		relabel := func(server int) []string {
			h := &warned{}
			cfg := w.config(server)
			cfg.WarningHandler = h
			_, err := w.client(cfg).CoreV1().Namespaces().Patch(w.ctx, w.namespace, types.MergePatchType, patch, metav1.PatchOptions{DryRun: []string{metav1.DryRunAll}})
			w.must(nil, err)
			return h.all
		}
		var stock []string
		w.eventually(0, "stock to warn of all Pods", func(kubernetes.Interface) error {
			stock = relabel(0)
			if text := strings.Join(stock, "\n"); !strings.Contains(text, "privileged") || !strings.Contains(text, "host-path") || !strings.Contains(text, "annotated") {
				return fmt.Errorf("warned of %q", stock)
			}
			return nil
		})
		w.eventually(1, "weir to warn of the same", func(kubernetes.Interface) error {
			if got := relabel(1); !slices.Equal(got, stock) {
				return fmt.Errorf("warned of\n%q\nwant\n%q", got, stock)
			}
			return nil
		})
	}
	// Pods that are gone are not warned of.
	for _, name := range []string{"privileged", "host-path", "annotated", "plain"} {
		w.must(nil, w.admin(0).CoreV1().Pods(w.namespace).Delete(w.ctx, name, now))
	}
	for i := range w.servers {
		w.eventually(i, "no warning", func(kubernetes.Interface) error {
			h := &warned{}
			cfg := w.config(i)
			cfg.WarningHandler = h
			_, err := w.client(cfg).CoreV1().Namespaces().Patch(w.ctx, w.namespace, types.MergePatchType,
				[]byte(`{"metadata":{"labels":{"pod-security.kubernetes.io/enforce":"restricted"}}}`), metav1.PatchOptions{DryRun: []string{metav1.DryRunAll}})
			if err == nil && len(h.all) > 0 {
				err = fmt.Errorf("warned of %q", h.all)
			}
			return err
		})
	}
}

// parameter is an object that a policy has as its parameter: what it says may be in what is created.
type parameter struct {
	kind string
	// expression is true if what is created says what the parameter does.
	expression string
	put        func(w *world, word string, exists bool) error
	remove     func(w *world) error
}

const (
	paramName = "parameter"
	asked     = "asked"
)

func paramMeta() metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: paramName, Labels: map[string]string{"is": "a-parameter"}}
}

// put updates an object that exists, and creates one that does not.
func put[T any](exists bool, obj T, create func(context.Context, T, metav1.CreateOptions) (T, error), update func(context.Context, T, metav1.UpdateOptions) (T, error)) (T, error) {
	if exists {
		return update(context.Background(), obj, metav1.UpdateOptions{})
	}
	return create(context.Background(), obj, metav1.CreateOptions{})
}

var parameters = []parameter{
	{
		kind: "Secret", expression: `params.data.word == object.data.encoded`,
		put: func(w *world, word string, exists bool) error {
			c := w.admin(0).CoreV1().Secrets(w.namespace)
			_, err := put(exists, &corev1.Secret{ObjectMeta: paramMeta(), Data: map[string][]byte{"word": []byte(word), "large": make([]byte, 50_000)}}, c.Create, c.Update)
			return err
		},
		remove: func(w *world) error { return w.admin(0).CoreV1().Secrets(w.namespace).Delete(w.ctx, paramName, now) },
	},
	{
		kind: "ConfigMap", expression: `params.data.word == object.data.word`,
		put: func(w *world, word string, exists bool) error {
			c := w.admin(0).CoreV1().ConfigMaps(w.namespace)
			_, err := put(exists, &corev1.ConfigMap{ObjectMeta: paramMeta(), Data: map[string]string{"word": word}}, c.Create, c.Update)
			return err
		},
		remove: func(w *world) error { return w.admin(0).CoreV1().ConfigMaps(w.namespace).Delete(w.ctx, paramName, now) },
	},
	{
		kind: "Pod", expression: `params.spec.containers[0].image == object.data.word && params.status.message == object.data.word`,
		put: func(w *world, word string, exists bool) error {
			c := w.admin(0).CoreV1().Pods(w.namespace)
			p := w.pod(paramName, "n1")
			p.Labels = paramMeta().Labels
			if exists {
				var err error
				if p, err = c.Get(w.ctx, paramName, metav1.GetOptions{}); err != nil {
					return err
				}
			}
			p.Spec.Containers[0].Image = word
			made, err := put(exists, p, c.Create, c.Update)
			if err != nil {
				return err
			}
			made.Status.Message = word
			_, err = c.UpdateStatus(w.ctx, made, metav1.UpdateOptions{})
			return err
		},
		remove: func(w *world) error { return w.admin(0).CoreV1().Pods(w.namespace).Delete(w.ctx, paramName, now) },
	},
}

// policyParameters: a policy sees its parameters, of any kind, as they are now, whether it names them or selects them.
func policyParameters(w *world) {
	// What policies are about is in a namespace of its own: they are there for a while after they were deleted.
	w.must(w.admin(0).CoreV1().Namespaces().Create(w.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: asked}}, metav1.CreateOptions{}))
	for _, param := range parameters {
		for _, selected := range []bool{false, true} {
			w.withPolicy(param, selected)
		}
	}
}

func (w *world) withPolicy(param parameter, selected bool) {
	name := strings.ToLower(fmt.Sprintf("%s-%s-%t", w.namespace, param.kind, selected))
	policies := w.admin(0).AdmissionregistrationV1()
	deny, inNamespace := admissionv1.DenyAction, &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": asked}}
	w.must(policies.ValidatingAdmissionPolicies().Create(w.ctx, &admissionv1.ValidatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: admissionv1.ValidatingAdmissionPolicySpec{
			ParamKind: &admissionv1.ParamKind{APIVersion: "v1", Kind: param.kind},
			MatchConstraints: &admissionv1.MatchResources{NamespaceSelector: inNamespace, ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
				Operations: []admissionv1.OperationType{admissionv1.Create},
				Rule:       admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"configmaps"}},
			}}}},
			MatchConditions: []admissionv1.MatchCondition{{Name: "asks", Expression: fmt.Sprintf("object.metadata.name == %q", "asks-"+name)}},
			Validations:     []admissionv1.Validation{{Expression: param.expression}},
		},
	}, metav1.CreateOptions{}))
	ref := &admissionv1.ParamRef{Name: paramName, Namespace: w.namespace, ParameterNotFoundAction: &deny}
	if selected {
		ref.Name, ref.Selector = "", &metav1.LabelSelector{MatchLabels: paramMeta().Labels}
	}
	w.must(policies.ValidatingAdmissionPolicyBindings().Create(w.ctx, &admissionv1.ValidatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: admissionv1.ValidatingAdmissionPolicyBindingSpec{
			PolicyName: name, ParamRef: ref, ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny},
		},
	}, metav1.CreateOptions{}))
	ask := func(c kubernetes.Interface, word string) error {
		_, err := c.CoreV1().ConfigMaps(asked).Create(w.ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: "asks-" + name}, Data: map[string]string{"word": word, "encoded": base64.StdEncoding.EncodeToString([]byte(word))},
		}, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err
	}
	denied := func(c kubernetes.Interface, word, because string) error {
		err := ask(c, word)
		if err == nil || !strings.Contains(err.Error(), because) {
			return fmt.Errorf("%q is not denied because of %q: %w", word, because, orNil(err))
		}
		return nil
	}
	all := func(what string, check func(kubernetes.Interface) error) {
		w.Helper()
		for i := range w.servers {
			w.eventually(i, name+": "+what, check)
		}
	}
	all("no parameter", func(c kubernetes.Interface) error { return denied(c, "one", "no params found") })
	for n, word := range []string{"one", "two"} {
		w.must(nil, param.put(w, word, n > 0))
		all("the word "+word, func(c kubernetes.Interface) error { return ask(c, word) })
		all("another word", func(c kubernetes.Interface) error { return denied(c, "three", "failed expression") })
	}
	all("the word of before", func(c kubernetes.Interface) error { return denied(c, "one", "failed expression") })
	w.must(nil, param.remove(w))
	all("a parameter that is gone", func(c kubernetes.Interface) error { return denied(c, "two", "no params found") })
	w.must(nil, policies.ValidatingAdmissionPolicyBindings().Delete(w.ctx, name, metav1.DeleteOptions{}))
	w.must(nil, policies.ValidatingAdmissionPolicies().Delete(w.ctx, name, metav1.DeleteOptions{}))
}

// mutatingPolicy: a policy that changes objects sees its parameters, too.
func mutatingPolicy(w *world) {
	policies := w.admin(0).AdmissionregistrationV1()
	const name = "mutates"
	deny := admissionv1.DenyAction
	w.must(w.admin(0).CoreV1().Secrets(w.namespace).Create(w.ctx, &corev1.Secret{ObjectMeta: paramMeta(), Data: map[string][]byte{"word": []byte("one")}}, metav1.CreateOptions{}))
	w.must(policies.MutatingAdmissionPolicies().Create(w.ctx, &admissionv1.MutatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: admissionv1.MutatingAdmissionPolicySpec{
			ParamKind: &admissionv1.ParamKind{APIVersion: "v1", Kind: "Secret"},
			MatchConstraints: &admissionv1.MatchResources{
				NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": w.namespace}},
				ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
					Operations: []admissionv1.OperationType{admissionv1.Create},
					Rule:       admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"configmaps"}},
				}}},
			},
			ReinvocationPolicy: admissionv1.NeverReinvocationPolicy,
			Mutations: []admissionv1.Mutation{{PatchType: admissionv1.PatchTypeApplyConfiguration, ApplyConfiguration: &admissionv1.ApplyConfiguration{
				Expression: `Object{data: {"word": params.data.word}}`,
			}}},
		},
	}, metav1.CreateOptions{}))
	w.must(policies.MutatingAdmissionPolicyBindings().Create(w.ctx, &admissionv1.MutatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       admissionv1.MutatingAdmissionPolicyBindingSpec{PolicyName: name, ParamRef: &admissionv1.ParamRef{Name: paramName, Namespace: w.namespace, ParameterNotFoundAction: &deny}},
	}, metav1.CreateOptions{}))
	for i := range w.servers {
		w.eventually(i, "the word of the parameter", func(c kubernetes.Interface) error {
			made, err := c.CoreV1().ConfigMaps(w.namespace).Create(w.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "asks"}}, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
			if err == nil && made.Data["word"] != base64.StdEncoding.EncodeToString([]byte("one")) {
				err = fmt.Errorf("it has %v", made.Data)
			}
			return err
		})
	}
}

// quota: a namespace's quota counts Pods and Secrets.
func quota(w *world) {
	quotas := w.admin(0).CoreV1().ResourceQuotas(w.namespace)
	hard := corev1.ResourceList{"pods": resource.MustParse("1"), "count/secrets": resource.MustParse("1")}
	q, err := quotas.Create(w.ctx, &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "quota"}, Spec: corev1.ResourceQuotaSpec{Hard: hard}}, metav1.CreateOptions{})
	w.must(q, err)
	// The controller that would count what there is does not run here.
	q.Status = corev1.ResourceQuotaStatus{Hard: hard, Used: corev1.ResourceList{"pods": resource.MustParse("0"), "count/secrets": resource.MustParse("0")}}
	w.must(quotas.UpdateStatus(w.ctx, q, metav1.UpdateOptions{}))
	create := func(c kubernetes.Interface, name string, dry ...string) []error {
		_, podErr := c.CoreV1().Pods(w.namespace).Create(w.ctx, w.pod(name, ""), metav1.CreateOptions{DryRun: dry})
		_, secretErr := c.CoreV1().Secrets(w.namespace).Create(w.ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{DryRun: dry})
		return []error{podErr, secretErr}
	}
	for i := range w.servers {
		w.eventually(i, "room in the quota", func(c kubernetes.Interface) error {
			for _, err := range create(c, "first", metav1.DryRunAll) {
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	for _, err := range create(w.admin(1), "first") {
		w.must(nil, err)
	}
	for i := range w.servers {
		w.eventually(i, "no room in the quota", func(c kubernetes.Interface) error {
			for _, err := range create(c, "second", metav1.DryRunAll) {
				if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "exceeded quota") {
					return fmt.Errorf("not beyond the quota: %w", orNil(err))
				}
			}
			return nil
		})
	}
}
