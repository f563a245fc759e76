// The Vercel AI SDK against a running gateway: does every task over every way, and prints what came as JSON.
//
// usage: node vercel.mjs GATEWAY_URL
import { createAnthropic } from '@ai-sdk/anthropic'
import { createOpenAI } from '@ai-sdk/openai'
import { generateText, isStepCount, jsonSchema, Output, stepCountIs, streamText, tool } from 'ai'

const url = process.argv[2]
const headers = { 'x-slipstream-cache': 'refresh' }
const openai = createOpenAI({ baseURL: `${url}/v1`, apiKey: 'x', headers })
const anthropic = createAnthropic({ baseURL: `${url}/v1`, apiKey: 'x', headers })
const ways = { chat: (m) => openai.chat(m), responses: (m) => openai.responses(m), messages: (m) => anthropic(m) }
const endAfter = stepCountIs ?? isStepCount

const properties = (name) => jsonSchema({
  type: 'object', properties: { [name]: { type: 'string' } }, required: [name], additionalProperties: false,
})
const tools = () => ({
  get_ticket: tool({
    description: 'Look up the state of a support ticket.',
    inputSchema: properties('ticket_id'),
    execute: async ({ ticket_id }) => `${ticket_id} is open`,
  }),
  check_permissions: tool({
    description: 'Say what a user may do.',
    inputSchema: properties('user_id'),
    execute: async ({ user_id }) => `${user_id} may close it`,
  }),
})
const schema = jsonSchema({
  type: 'object',
  properties: { title: { type: 'string' }, count: { type: 'integer' } },
  required: ['title', 'count'],
  additionalProperties: false,
})
const picture = 'bm90IHJlYWxseSBhIHBpY3R1cmU='
const toolQuestion = 'What is the state of INC-4821, and may u-123 close it?'

// No retries: the gateway's answer is what is tested. Errors of a stream would otherwise only be printed.
const common = { maxRetries: 0, onError: () => {} }

const tasks = {
  async whole(model) {
    const { text, finishReason, usage } = await generateText({
      ...common, model, system: 'Be brief.', prompt: 'What is TCP?',
    })
    return { text, finishReason, usage: { input: usage.inputTokens, output: usage.outputTokens } }
  },
  async streamed(model) {
    const result = streamText({ ...common, model, system: 'Be brief.', prompt: 'What is TCP?' })
    const pieces = []
    for await (const piece of result.textStream) pieces.push(piece)
    const usage = await result.usage
    return {
      text: pieces.join(''), pieces: pieces.length, finishReason: await result.finishReason,
      usage: { input: usage.inputTokens, output: usage.outputTokens },
    }
  },
  async tools(model) {
    const { text, steps } = await generateText({
      ...common, model, prompt: toolQuestion, tools: tools(), stopWhen: endAfter(3),
    })
    return { text, calls: steps[0].toolCalls.map((c) => [c.toolName, c.input]), steps: steps.length }
  },
  async streamedTools(model) {
    const result = streamText({
      ...common, model, prompt: toolQuestion, tools: tools(), stopWhen: endAfter(3),
    })
    for await (const _ of result.fullStream);
    const steps = await result.steps
    return {
      text: await result.text, calls: steps[0].toolCalls.map((c) => [c.toolName, c.input]), steps: steps.length,
    }
  },
  async object(model) {
    const { output } = await generateText({ ...common, model, prompt: 'List it', output: Output.object({ schema }) })
    return output
  },
  async cut(model) {
    return { finishReason: (await generateText({ ...common, model, prompt: 'Hi', maxOutputTokens: 16 })).finishReason }
  },
  async picture(model) {
    const content = [{ type: 'text', text: 'What is on it?' }, { type: 'file', mediaType: 'image/png', data: picture }]
    return { text: (await generateText({ ...common, model, messages: [{ role: 'user', content }] })).text }
  },
  async aborted(model) {
    const controller = new AbortController()
    const result = streamText({ ...common, model, prompt: 'What is TCP?', abortSignal: controller.signal })
    let pieces = 0
    for await (const part of result.fullStream) {
      if (part.type === 'abort') return { pieces }
      if (part.type === 'text-delta' && ++pieces === 2) controller.abort()
    }
    return { failed: 'it went on to its end' }
  },
  async unknownModel(_, way) {
    try {
      await generateText({ ...common, model: way('no-such-model'), prompt: 'Hi' })
    } catch (error) {
      return { name: error.name, status: error.statusCode, message: error.message }
    }
    return {}
  },
}

const told = {}
for (const [name, way] of Object.entries(ways)) {
  for (const model of ['small', 'small2']) {
    for (const [task, run] of Object.entries(tasks)) {
      try {
        told[`${name} ${model} ${task}`] = await run(way(model), way)
      } catch (error) {
        told[`${name} ${model} ${task}`] = { failed: `${error.name}: ${error.message}`, cause: String(error.cause ?? '') }
      }
    }
  }
}
console.log(JSON.stringify(told))
