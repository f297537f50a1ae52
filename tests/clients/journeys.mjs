// One journey for each client: create a project, query, branch, query there, reset the branch, delete the project.
//
//   node journeys.mjs CONTROL DRIVER
//
// says in one line of JSON how many rows the branch had before and after its reset, and the project's first branch.
// CONTROL is who speaks to the API, DRIVER who speaks to the database. Both are used as their own pages say.

import { createNeonClient } from "@neon/sdk";
import { createApiClient } from "@neondatabase/api-client";
import { NeonToolkit } from "@neondatabase/toolkit";
import { neon, neonConfig, Pool } from "@neondatabase/serverless";
import { PrismaNeon } from "@prisma/adapter-neon";
import { sql } from "drizzle-orm";
import { drizzle as overHttp } from "drizzle-orm/neon-http";
import { drizzle as overWebSocket } from "drizzle-orm/neon-serverless";
import { drizzle as overPostgres } from "drizzle-orm/node-postgres";
import { createRequire } from "node:module";
import pg from "pg";
import postgres from "postgres";
import ws from "ws";

const { API, KEY, HTTPS_PORT } = process.env;

// Node 20 has no WebSocket of its own; and an endpoint's host leads to this machine, where HTTPS has a port of its own.
neonConfig.webSocketConstructor = ws;
neonConfig.wsProxy = (host) => `${host}:${HTTPS_PORT}/v2`;

const controls = {
  sdk() {
    const client = createNeonClient({
      apiKey: KEY, baseUrl: API, throwOnError: true, waitForReadiness: true, wait: { pollIntervalMs: 50 },
    });
    return {
      async create(name) {
        const { project, connectionString } = await client.projects.createAndConnect({ name, store_passwords: true, pooled: false });
        return { id: project.id, uri: connectionString };
      },
      async branch({ id: projectId }, name) {
        const { branch, connectionString } = await client.branches.createAndConnect({ projectId, name, pooled: false });
        return { id: branch.id, uri: connectionString };
      },
      reset: ({ id: projectId }, { id: branchId }) => client.branches.resetFromParent({ projectId, branchId }),
      // A deleted project is gone at once, and what was done to it with it: there is nothing to wait for.
      remove: ({ id: projectId }) => client.projects.delete({ projectId }, { waitForReadiness: false }),
    };
  },

  "api-client"(client = createApiClient({ apiKey: KEY, baseURL: API })) {
    const settled = async (projectId, operations) => {
      for (const { id } of operations) {
        while (!["finished", "skipped"].includes((await client.getProjectOperation(projectId, id)).data.operation.status))
          await new Promise((resolve) => setTimeout(resolve, 50));
      }
    };
    return {
      async create(name) {
        const { project, branch, connection_uris, operations } = (await client.createProject({ project: { name } })).data;
        await settled(project.id, operations);
        return { id: project.id, branchId: branch.id, uri: connection_uris[0].connection_uri };
      },
      async branch(project, name) {
        const asked = { branch: { name, parent_id: project.branchId }, endpoints: [{ type: "read_write" }] };
        const { branch, operations } = (await client.createProjectBranch(project.id, asked)).data;
        await settled(project.id, operations);
        const { host } = (await client.listProjectBranchEndpoints(project.id, branch.id)).data.endpoints[0];
        const uri = new URL(project.uri); // a branch has its parent's roles, and their passwords
        uri.hostname = host;
        return { id: branch.id, uri: uri.href };
      },
      async reset(project, branch) {
        const asked = { source_branch_id: project.branchId };
        await settled(project.id, (await client.restoreProjectBranch(project.id, branch.id, asked)).data.operations);
      },
      remove: (project) => client.deleteProject(project.id),
    };
  },

  // It knows no address but Neon's own, which leads here, and asks its database without waiting for anything.
  toolkit() {
    const toolkit = new NeonToolkit(KEY);
    let made;
    return {
      ...controls["api-client"](toolkit.apiClient),
      async create(name) {
        made = await toolkit.createProject({ name });
        await toolkit.sql(made, "SELECT 1");
        return { id: made.project.id, branchId: made.branches.id, uri: made.connectionURIs[0].connection_uri };
      },
      remove: () => toolkit.deleteProject(made),
    };
  },
};

// Each gives a function from a statement to its rows, and one to close.
const drivers = {
  http: (uri) => [neon(uri).query, () => {}],
  websocket(uri) {
    const pool = new Pool({ connectionString: uri });
    return [async (text) => (await pool.query(text)).rows, () => pool.end()];
  },
  pg(uri) {
    const pool = new pg.Pool({ connectionString: uri, enableChannelBinding: true });
    return [async (text) => (await pool.query(text)).rows, () => pool.end()];
  },
  postgres(uri) {
    const client = postgres(uri); // it sends `channel_binding` on to the server, as a setting
    return [(text) => client.unsafe(text), () => client.end()];
  },
  "drizzle-http"(uri) {
    const db = overHttp(neon(uri));
    return [async (text) => (await db.execute(sql.raw(text))).rows, () => {}];
  },
  "drizzle-websocket"(uri) {
    const pool = new Pool({ connectionString: uri });
    const db = overWebSocket(pool);
    return [async (text) => (await db.execute(sql.raw(text))).rows, () => pool.end()];
  },
  prisma(uri) {
    // Its client is generated by whoever starts this, and not there for the others.
    const { PrismaClient } = createRequire(import.meta.url)("@prisma/client");
    const prisma = new PrismaClient({ adapter: new PrismaNeon({ connectionString: uri }) });
    // By its model wherever the journey's statement can be said so.
    const ask = async (text) => {
      const inserted = text.match(/^INSERT INTO t VALUES \((\d+)\)$/);
      if (inserted) return [await prisma.t.create({ data: { n: Number(inserted[1]) } })];
      if (text.startsWith("SELECT count(*)")) return [{ n: await prisma.t.count() }];
      return prisma.$executeRawUnsafe(text);
    };
    return [ask, () => prisma.$disconnect()];
  },
  "drizzle-pg"(uri) {
    const pool = new pg.Pool({ connectionString: uri });
    const db = overPostgres(pool);
    return [async (text) => (await db.execute(sql.raw(text))).rows, () => pool.end()];
  },
};

async function rowsAfter(driver, uri, ...statements) {
  const [query, close] = driver(uri);
  try {
    for (const statement of statements) await query(statement);
    return (await query("SELECT count(*)::int AS n FROM t"))[0].n;
  } finally {
    await close();
  }
}

const [, , control, driver] = process.argv;
const client = controls[control]();
const ask = (uri, ...statements) => rowsAfter(drivers[driver], uri, ...statements);
const project = await client.create(`${control} and ${driver}`);
try {
  await ask(project.uri, "CREATE TABLE t (n int)", "INSERT INTO t VALUES (1)");
  const branch = await client.branch(project, "dev");
  const before = await ask(branch.uri, "INSERT INTO t VALUES (2)");
  await client.reset(project, branch);
  const after = await ask(branch.uri);
  console.log(JSON.stringify({ before, after, first: await ask(project.uri) }));
} finally {
  await client.remove(project);
}
