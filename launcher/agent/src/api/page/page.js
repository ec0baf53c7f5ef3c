// Shows the report of the node, and reads it again every two seconds. Texts of VMs are inserted as text only.
"use strict";

function fill(id, rows) {
    const body = document.getElementById(id);
    body.replaceChildren(...rows.map((cells) => {
        const row = document.createElement("tr");
        row.append(...cells.map((cell) => {
            const data = document.createElement("td");
            data.textContent = cell;
            return data;
        }));
        return row;
    }));
}

function show(report) {
    document.getElementById("node").textContent = report.node;
    document.getElementById("problem").textContent = report.problem ?? "";
    fill("vms", report.vms.map((vm) => [
        vm.namespace, vm.name, vm.phase,
        vm.interfaces.flatMap((nic) => nic.addresses).join(", "),
        vm.interfaces.map((nic) => nic.vtep).filter(Boolean).join(", "),
        vm.message,
    ]));
    fill("networks", Object.entries(report.networks));
    fill("wrong", report.wrong.map((problem) => [problem]));
    fill("events", Object.entries(report.counts.events));
}

function showTraffic(vms) {
    fill("traffic", vms.map((vm) => vm.isKnown ? [
        vm.namespace, vm.name, vm.flowsPerSecond?.toFixed(1) ?? "", vm.openFlows, vm.tunnels,
        Object.entries(vm.drops).map(([reason, count]) => `${reason} ${count}`).join(", "),
    ] : [vm.namespace, vm.name, "", "", "", "its process does not answer"]));
}

async function read(path) {
    const answer = await fetch(path);
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    return answer.json();
}

async function refresh() {
    try {
        show(await read("v1/node"));
        showTraffic(await read("v1/traffic"));
    } catch (error) {
        document.getElementById("problem").textContent = `the agent does not answer: ${error.message}`;
    }
}

refresh();
setInterval(refresh, 2000);
