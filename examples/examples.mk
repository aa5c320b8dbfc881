.PHONY: test-examples
test-examples: preflight ## the guests of examples/, built with gcc, run and moved
	$(GOTEST) -tags examples -run 'TestUnikernelInC|TestMoveScript|TestAddedWorkload' ./integration

.PHONY: test-grub
test-grub: ## an ELF32 kernel that others have built: GRUB's PVH image, of Debian
	GRUB_PVH="$$(./scripts/grub-pvh.sh)" $(GOTEST) -tags grub -run GRUB ./vmm/boot
